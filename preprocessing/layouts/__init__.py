"""Layouts of datasets: which files of a folder are a case, one file a layout."""

from samtune.preprocessing.layouts.channels import choose_channel, choose_volume
from samtune.preprocessing.layouts.listing import Evidence, LayoutOptions, Listing
from samtune.preprocessing.layouts.registry import (
    LAYOUTS,
    Layout,
    check_paired,
    list_dataset,
    recognise,
    with_patients,
)

__all__ = [
    "LAYOUTS",
    "Evidence",
    "Layout",
    "LayoutOptions",
    "Listing",
    "check_paired",
    "choose_channel",
    "choose_volume",
    "list_dataset",
    "recognise",
    "with_patients",
]
