"""One process of a dataflow: build the named flow, run it, write down how it ended."""

import faulthandler
import json
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import flows
from bytewax.recovery import RecoveryConfig
from bytewax.testing import cluster_main, run_main


def run(spec: dict, calls: list) -> None:
    flow = getattr(flows, spec["flow"])(calls.append, **spec["args"])
    settings = {"epoch_interval": timedelta(milliseconds=spec["epoch_ms"])}
    if spec["db_dir"] is not None:
        settings["recovery_config"] = RecoveryConfig(spec["db_dir"])
    if spec["interrupt_on"]:
        threading.Thread(target=interrupt, args=(Path(spec["interrupt_on"]),), daemon=True).start()
    if spec["workers"] is None:
        run_main(flow, **settings)
    else:
        cluster_main(
            flow,
            spec["addresses"],
            spec["process"],
            worker_count_per_proc=spec["workers"],
            **settings,
        )


def interrupt(signal_file: Path) -> None:
    """Interrupt the main thread as soon as the file is there."""
    import _thread

    while not signal_file.exists():
        time.sleep(0.005)
    _thread.interrupt_main()


def main() -> None:
    faulthandler.enable()
    spec = json.loads(sys.argv[1])
    calls: list = []
    outcome: dict = {"error": None, "is_exception": None, "message": "", "causes": []}
    try:
        run(spec, calls)
    except BaseException as error:  # noqa: BLE001 - the engine's panic is no Exception
        outcome["error"] = type(error).__name__
        outcome["is_exception"] = isinstance(error, Exception)
        outcome["message"] = str(error)
        cause: BaseException | None = error
        while cause := cause.__cause__:
            outcome["causes"].append(type(cause).__name__)
            outcome["message"] += f"\n{cause}"
    finally:
        outcome["calls"] = list(calls)
        Path(spec["outcome_file"]).write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
