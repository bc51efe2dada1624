"""How fast we are beside what a user would pick instead, and beside the machine's limit.

    python tests/benchmarks/speed.py [WORK_DIR] [--clips DIR] [--text DIR] [--only ROW ...] [--pairs 5] [--quick] [--list]

WORK_DIR keeps what is made once. CLIPS holds videos and `captions.csv` (video, caption), TEXT `msvd_train_sentences.tsv`. The exit status
is 1 where a row fails, gives other results than its peer or misses its goal; `--quick` takes tiny inputs, and judges no goal.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from caption_rows import caption_rows
from folder_rows import folder_rows
from harness import Row, is_good, machine, run_rows, write_results
from materials import Inputs, inputs_parser
from media_rows import media_rows
from train_rows import train_rows
from transformers.utils.logging import disable_progress_bar
from vocab_rows import vocab_rows


def all_rows(inputs: Inputs) -> list[Row]:
    """The rows in the order of a run from videos to sentences."""
    return [*media_rows(inputs), *vocab_rows(inputs), *train_rows(inputs), *caption_rows(inputs), *folder_rows(inputs)]


def main() -> None:
    parser = inputs_parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows only")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side that are timed")
    parser.add_argument("--json", type=Path, help="the figures; WORK_DIR/results.json if left out")
    parser.add_argument("--quick", action="store_true", help="tiny inputs, one run: whether all rows work")
    parser.add_argument("--list", action="store_true", help="name the rows")
    arguments = parser.parse_args()
    inputs = Inputs(arguments.work_dir.resolve(), arguments.clips.resolve(), arguments.text.resolve(), arguments.quick)
    if arguments.quick:
        inputs = replace(inputs, work_dir=inputs.work_dir / "quick")
    rows = all_rows(inputs)
    if arguments.list:
        sys.stdout.writelines(f"{row.name}: {', '.join(f'{goal.against} {goal}' for goal in row.goals)}\n" for row in rows)
        return
    unknown = set(arguments.only or ()) - {row.name for row in rows}
    if unknown:
        parser.error(f"no row is named {', '.join(sorted(unknown))}; --list names them")
    if not (inputs.clips_dir / "captions.csv").is_file():
        parser.error(f"{inputs.clips_dir} holds no captions.csv: name a folder of captioned clips with --clips")
    disable_progress_bar()
    sys.stdout.writelines(f"{name}: {value}\n" for name, value in machine().items())
    measured = run_rows(
        [row for row in rows if not arguments.only or row.name in arguments.only], arguments.pairs, is_quick=arguments.quick
    )
    write_results(arguments.json or inputs.work_dir / "results.json", measured)
    sys.exit(0 if is_good(measured) else 1)


if __name__ == "__main__":
    main()
