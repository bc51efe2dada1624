#!/usr/bin/env bash
# The whole chain on a small narrated world: what `make demo` runs. Usage: docs/demo.sh [FOLDER]
set -euo pipefail

demo=${1:-demo}
world=$demo/world
export VBCLI_WORKSPACE=$demo/work
tokens=$VBCLI_WORKSPACE/tokens
checkpoints=$VBCLI_WORKSPACE/checkpoints
captions=$VBCLI_WORKSPACE/captions

say() { printf '\n== %s\n' "$*" >&2; }

say "a world of coloured things that do something, with narration, captions and questions"
if [ ! -f "$world/README.txt" ]; then
  rm -rf "$world" # half made
  vbcli demo-data "$world" --n-videos 2200
fi

say "frames, features, visual vocabulary"
vbcli extract "$world/videos" --captions "$world/captions.csv" --captions "$world/questions.jsonl"
vbcli build-vocab

say "VideoBERT on video and narration, then the captioner"
vbcli train

say "for comparison: a captioner that sees one frame, and one that sees nothing"
# Side by side, on a thread each: two threads are little faster than one on a model as small as this.
for shown in "one-frame 1" "no-video 0"; do
  read -r name n_clips <<<"$shown"
  vbcli train "$tokens" "$checkpoints/$name" --task caption --init "$checkpoints/pretrain" --n-clips "$n_clips" --max-steps 800 --threads 1 &
done
wait -n
wait -n

say "captions of the test videos: combinations of thing and action that training has never seen"
vbcli caption "$tokens" "$captions/test" --split test
vbcli caption "$tokens" "$captions/one-frame" --split test --checkpoint "$checkpoints/one-frame"
vbcli caption "$tokens" "$captions/no-video" --split test --checkpoint "$checkpoints/no-video"

say "scores"
vbcli evaluate "$captions/test" "$tokens" --lexicon "$world/lexicon.json" --also "$captions/one-frame" --also "$captions/no-video"

cat <<EOF

videos       $world/videos
checkpoint   $checkpoints/caption
captions     $captions/test
caption your own videos with:
  vbcli caption FOLDER --checkpoint $checkpoints/caption
EOF
