#!/usr/bin/env bash
# From a fresh clone to a fine-tuned SAM on real MR volumes: sets up .venv, slices the sample data,
# scores untouched SAM, fine-tunes it with LoRA, scores the test cases, predicts one raw scan.
#
#   bash scripts/quickstart.sh [--with-unet]      everything goes to runs/quickstart
#
# --with-unet trains a 3D U-Net from scratch on the same cases too (7 minutes more).
# A finished step is not done again; remove runs/quickstart to start anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

with_unet=""
for argument in "$@"; do
  case "$argument" in
    --with-unet) with_unet=yes ;;
    -h | --help) sed -n '2,8p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "quickstart.sh: unknown option $argument, see --help" >&2; exit 2 ;;
  esac
done

out=runs/quickstart
configs=bundles/sam_finetune/configs
sample=examples/hippocampus_mr

bash scripts/setup_env.sh weights,plots
bin=.venv/bin
start=$SECONDS

step() { echo; echo "== $1 ($((SECONDS - start)) s)"; }
# MONAI's warning that a config is code: these configs are this repository's own
bundle() { "$bin/python" -W "ignore:parsing config_file:UserWarning" -m monai.bundle run "$@"; }
ended() { # has the table of metrics $1 its last line and a companion that says complete?
  [[ -f "${1%.csv}_summary.csv" ]]
}

step "slice 20 volumes: 12 to train, 2 to validate, 6 to test"
"$bin/samtune" slice "$sample/images" --labels "$sample/labels" --modality mr \
  --class-names 1:anterior,2:posterior --split-counts 12 2 6 --out "$out/slices"

step "score untouched LiteMedSAM, prompted with the label's own boxes"
ended "$out/zero_shot/metrics_test.csv" || bundle --config_file "$configs/zero_shot.yaml" \
  --dataset_dir "$out/slices" --output_dir "$out/zero_shot"

step "fine-tune it without prompts: LoRA in the last blocks, over a cached prefix"
bundle training --config_file "$configs/train.yaml" \
  --dataset_dir "$out/slices" --runs_dir "$out" --run_name lora

step "score the fine-tuned model on the test cases"
bundle --config_file "$configs/evaluate.yaml" --run_dir "$out/lora"

step "segment one raw scan"
scan="$(ls "$sample"/images/*.nii.gz | tail -n 1)"
"$bin/samtune" predict "$out/lora" "$scan" --out "$out/predictions"

if [[ -n "$with_unet" ]]; then
  step "train a 3D U-Net from scratch on the same cases"
  ended "$out/unet/metrics_test.csv" ||
    "$bin/python" scripts/train_unet.py --slices "$out/slices" --out "$out/unet" --minutes 7
fi

step "results"
"$bin/python" scripts/quickstart_report.py "$out"
echo "took $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s after installation"
echo "report, to be opened in a browser:"
"$bin/samtune" report "$out/lora" --slices "$out/slices"
