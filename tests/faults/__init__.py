"""The fault suite: real servers are broken under load, and an oracle judges what clients saw.

`make faults` tries the quick rows of the table, `make faults-full` all; `FAULTS="-k F20 --seed 3"` chooses. Each
runs alone on the machine. `table.py` knows every row: it is a `Scenario` in one of the `of_*.py` modules, or is left
out with the reason.

How to add one:

1. Write a `Scenario` into the list of the right `of_*.py`: its id and title, the `fault`, a context manager over the
   `Stand` that breaks on entry and heals in the end (`killed`, `frozen` of `tests.promises.places` are such, and
   `acts.py` has more), and the `criteria` of its row (`criteria.py`, or functions beside the scenario that return
   what is wrong with an `Evidence`). `settings` are each node's environment; `shape` changes the load. What only the
   fault itself can see goes to `stand.findings`, what it counts for a criterion to `stand.measured`.
2. The invariants are judged in every run (`verdict.py`): do not repeat them.
3. Put its line into docs/reliability-faults.md, as `test_table.py` tells; into `QUICK` (`table.py`) only if every
   change has to pass it: the quick part must stay under eight minutes.
4. Try it: `python -m pytest tests/faults -m faults -s --full -k F20`, several times, and with `--seed`.

The load (`load.py`, `agents.py`, `driver.py`) is an open loop in a process of its own. The oracle and the ledger are
those of `tests.promises`.
"""
