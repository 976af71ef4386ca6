"""Choice of one channel, frame or DICOM series of images that have several."""

from dataclasses import replace

from samtune.preprocessing.layouts.listing import Listing


def choose_channel(found: Listing, channel: str | None) -> Listing:
    """The same cases with one channel each: a file of several, or a frame of a 4D file.

    Args:
        found: of a layout.
        channel: number from 0, or name in ``found.channel_names``; None: there is only one.

    Raises:
        ValueError: there are several and none is chosen, or no such channel; lists those there
            are.
    """
    files = max(len(one.images) for one in found.cases)
    number = max(files, len(found.channel_names))
    names = found.channel_names or tuple(f"channel {index}" for index in range(number))
    if number <= 1 and channel is None:
        return found
    known = ", ".join(f"{index} {name}" for index, name in enumerate(names)) or "0"
    if channel is None:
        raise ValueError(
            f"{found.folder}: images have {number} channels ({known}); choose one with --channel"
        )
    matches = [index for index, name in enumerate(names) if channel in (str(index), name)]
    if len(matches) != 1:
        raise ValueError(f"{found.folder}: no channel {channel!r}; there are: {known}")
    index = matches[0]
    if files > 1:
        cases = [replace(one, images=(one.images[index],)) for one in found.cases]
    elif number > 1:
        cases = [replace(one, frame=index) for one in found.cases]
    else:
        cases = found.cases
    return replace(found, cases=cases)


def choose_volume(found: Listing, *, frame: int | None, series: str | None) -> Listing:
    """The same cases with one frame of their 4D files, or one series of their DICOM folders.

    Args:
        found: of a layout.
        frame: from 0; None: the files have one, or a channel was chosen.
        series: description, number or SeriesInstanceUID; None: the folders have one.

    Raises:
        ValueError: a channel is a frame of these files, and was chosen already.
    """
    cases = found.cases
    if frame is not None:
        if any(one.frame is not None for one in cases):
            raise ValueError(
                f"{found.folder}: channels are frames of these files; give --channel or --frame, "
                "not both"
            )
        cases = [replace(one, frame=frame) for one in cases]
    if series is not None:
        cases = [replace(one, series=series) for one in cases]
    return replace(found, cases=cases)
