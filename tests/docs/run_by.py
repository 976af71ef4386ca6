"""Which test runs each command that the pages beside README show, or why none does.

The test runs it on small data, with folders of its own and fewer steps: as a process, or through
the function that the command calls. README's commands are run by ``test_readme_runs.py``.
"""

COMMANDS, BUNDLES = "tests/commands/test_", "tests/bundles/test_"
TRAINING, RELEASE = "tests/training/test_", "tests/training/release/test_"
RECIPES = f"{BUNDLES}recipes.py"

# page: part of a command: the test. The longest part that a command holds is its own.
RUN_BY: dict[str, dict[str, str]] = {
    "docs/backbones.md": {
        "weights list": f"{COMMANDS}weights.py::test_list_shows_what_is_here",
        "weights inspect": f"{COMMANDS}weights.py::test_convert_then_inspect",
        # of a file: address
        "weights download": f"{COMMANDS}weights.py::test_verify_and_download",
        "backbones/vit_b.yaml": f"{BUNDLES}backbones.py::test_two_steps_of_training",
    },
    "docs/comparing.md": {
        "samtune compare": f"{COMMANDS}compare.py::test_grid_of_cases",
    },
    "docs/evaluation.md": {
        "samtune evaluate": f"{COMMANDS}evaluate.py::test_options_of_the_metrics_reach_the_table",
    },
    "docs/methods.md": {
        "methods/salt.yaml": f"{BUNDLES}methods.py::test_two_steps_of_training",
    },
    "docs/predicting.md": {
        "predict runs/first scan.nii.gz": f"{COMMANDS}predict.py::test_scan_to_label_file",
        "predict runs/first scans/": f"{TRAINING}predict.py"
        "::test_label_files_have_name_shape_affine_and_codes_of_the_scans",
        "--ensemble runs/b runs/c": f"{TRAINING}predict.py"
        "::test_an_ensemble_is_the_mean_of_what_its_runs_say",
        "predict runs/cv": f"{TRAINING}predict.py::test_a_folder_of_folds_is_their_ensemble",
        "runs/predictions --flips h": f"{BUNDLES}averaged.py"
        "::test_evaluate_inference_and_predict_agree",
        "--ensemble runs/coronal": f"{TRAINING}planes.py::test_the_mean_is_taken_on_the_scans_grid",
        "samtune evaluate": f"{COMMANDS}evaluate.py::test_cases_of_a_split_alone",
        "samtune postprocess": f"{TRAINING}postprocess.py"
        "::test_a_run_is_judged_by_its_validation_cases_and_opens_no_other",
        "out --slice 17 --box 10,12,30,41 --point": f"{TRAINING}scan_prompts.py"
        "::test_runs_and_the_packaged_model_take_prompts",
        "predict --base lite_medsam": f"{TRAINING}scan_prompts.py"
        "::test_runs_and_the_packaged_model_take_prompts",
        "--out out --prompts prompts.json": f"{TRAINING}scan_prompts.py"
        "::test_classes_are_joined_and_compete_in_the_label_file",
        # without a window
        "scripts/demo.py": "tests/scripts/test_demo.py::test_s_saves_all_slices",
    },
    "docs/releases.md": {
        "samtune verify": f"{BUNDLES}releases.py::test_it_is_as_released_and_repeats_its_sample",
        "samtune predict": f"{RELEASE}verify.py::test_predict_takes_the_bundle_as_it_takes_the_run",
        "configs/inference.yaml": f"{BUNDLES}releases.py::test_monai_segments_its_sample",
        "samtune slice": f"{RELEASE}release.py::test_the_cards_command_makes_the_slices_again",
        "training": f"{BUNDLES}sam_finetune.py::test_training_as_a_command_from_the_repository",
        "methods/salt.yaml": f"{BUNDLES}methods.py::test_two_steps_of_training",
        "evaluate.yaml": f"{BUNDLES}sam_finetune.py::test_evaluation_scores_each_case_of_the_split",
        "samtune release": f"{RELEASE}release.py::test_command",
        "samtune compare": f"{COMMANDS}compare.py::test_tables_names_and_protocols",
    },
    "docs/releasing.md": {
        "release runs/first": f"{RELEASE}release.py::test_command",
        "evaluate.yaml --run_dir runs/cv": f"{BUNDLES}cross_validation.py"
        "::test_the_folds_are_an_ensemble_that_is_scored_on_test_cases_alone",
        "release runs/cv": f"{RELEASE}ensembles.py"
        "::test_each_member_has_its_folder_and_the_bundle_predicts_their_mean",
        "samtune verify": f"{RELEASE}verify.py::test_a_bundle_as_released_is_verified",
        "samtune predict": f"{RELEASE}verify.py::test_predict_takes_the_bundle_as_it_takes_the_run",
        "configs/inference.yaml": f"{RELEASE}ensembles.py::test_monai_runs_it",
        "--materialise": f"{RELEASE}materialise.py::test_monais_transforms_give_what_predict_gives",
        "scripts/zoo_checks.py": f"{RELEASE}materialise.py::test_model_zoo_checks",
    },
    "docs/report.md": {
        "report": f"{COMMANDS}report.py::test_writes_page_and_figures_and_prints_the_page_last",
        "--out lora.html": f"{COMMANDS}report.py::test_out_and_no_figures",
        "--no-figures": f"{COMMANDS}report.py::test_out_and_no_figures",
        "--slices slices": f"{TRAINING}report.py::test_slices_that_moved_or_changed",
    },
    "docs/reproducing_the_papers.md": {
        "recipes/salt.yaml": f"{RECIPES}::test_salt",
        "recipes/salt/lora.yaml": f"{RECIPES}::test_every_strategy_of_salt",
        "recipes/salt/sam2.yaml": f"{RECIPES}::test_every_strategy_of_salt",
        "recipes/sam_adapter.yaml": f"{RECIPES}::test_sam_adapter",
        "recipes/sam_lora.yaml": f"{RECIPES}::test_sam_lora",
        "recipes/finetune_sam/both_lora.yaml": f"{RECIPES}::test_finetune_sam",
        "recipes/oct_lora.yaml": f"{RECIPES}::test_oct",
        "benchmarks.table_recipes": "tests/benchmarks/test_table_recipes.py"
        "::test_a_run_fills_its_row_and_the_others_say_so",
    },
    "docs/slice_folders.md": {
        "'thorax'": f"{BUNDLES}joined.py::test_a_run_on_two_folders_has_the_classes_of_both",
    },
    "docs/training.md": {
        "samtune slice": f"{COMMANDS}slice.py"
        "::test_a_dry_run_prints_cases_shapes_axis_slices_and_split",
        "few_volumes.yaml": f"{BUNDLES}few_volumes.py"
        "::test_late_blocks_train_whole_on_neighbouring_slices",
        "train.yaml --dataset_dir slices": f"{BUNDLES}sam_finetune.py"
        "::test_training_as_a_command_from_the_repository",
        "--prompts box": f"{BUNDLES}prompted.py"
        "::test_again_and_resumed_it_ends_with_the_same_bytes",
        "evaluate.yaml --run_dir runs/box": f"{BUNDLES}prompted.py"
        "::test_it_is_evaluated_with_the_boxes_of_zero_shot",
        "samtune compare": f"{COMMANDS}compare.py::test_tables_names_and_protocols",
        "torchrun": f"{BUNDLES}multi_gpu.py"
        "::test_torchrun_trains_and_says_one_thing_where_it_fails",
        "samtune crossval": f"{BUNDLES}cross_validation.py"
        "::test_each_case_is_scored_once_by_the_run_that_has_not_seen_it",
        "samtune predict runs/cv": f"{TRAINING}predict.py"
        "::test_a_folder_of_folds_is_their_ensemble",
        "evaluate.yaml --run_dir runs/cv": f"{BUNDLES}cross_validation.py"
        "::test_the_folds_are_an_ensemble_that_is_scored_on_test_cases_alone",
        "train.yaml --dataset_dir slices --data::fold 0": f"{BUNDLES}cross_validation.py"
        "::test_killed_and_started_again_it_ends_as_if_undisturbed",
        "samtune init": f"{COMMANDS}init.py::test_the_config_is_that_of_the_slices",
        "--datalist": f"{BUNDLES}own_data.py::test_two_steps_on_a_datalist",
        "examples/own_dataset/discs.yaml": f"{BUNDLES}own_data.py"
        "::test_the_example_trains_and_validates_as_monai_counts",
    },
    "bundles/sam_finetune/docs/README.md": {
        "configs/train.yaml": f"{BUNDLES}sam_finetune.py"
        "::test_training_as_a_command_from_the_repository",
        "configs/evaluate.yaml": f"{BUNDLES}sam_finetune.py"
        "::test_evaluation_scores_each_case_of_the_split",
        "configs/inference.yaml": f"{BUNDLES}sam_finetune.py"
        "::test_inference_config_and_predict_give_equal_bytes",
    },
}

_MONAI_LABEL = (
    "needs an environment with MONAI Label: tests/training/release/test_monai_label.py asks such a "
    "server where MONAILABEL_PYTHON names its Python"
)
_TEST_SCRIPT = "is what runs the tests"
# page: part of a command: why no test runs it
NOT_RUN: dict[str, dict[str, str]] = {
    "docs/from_other_tools.md": {
        "methods/full.yaml": "all of MedSAM takes too long on a processor; each of the four "
        "files is run by test_prompted.py, test_backbones.py or test_methods.py",
    },
    "docs/releases.md": {"cd bundles/": "is the folder of the command after it"},
    "docs/releasing.md": {
        "cd bundles/": "is the folder of the command after it",
        "monailabel apps": _MONAI_LABEL + "; downloads",
        "cp -r": _MONAI_LABEL,
        "monailabel start_server": _MONAI_LABEL,
        "curl": _MONAI_LABEL,
    },
    "CONTRIBUTING.md": {
        "scripts/test.sh": _TEST_SCRIPT,
        ".venv/bin/activate": "of the environment that the script makes",
        "pre-commit install": "writes into .git",
    },
}
