#!/usr/bin/env python3
"""Compares the table of behaviours (tests/conformance.txt) with what the tests said.

    tools/conformance.py RESULTS ... [--with NAME RESULTS ...]

prints each row with its state, result and tests, then what is wrong and the totals; the last line is "N passed, N failed" over
all results. RESULTS are the files that the test programs write with --results: pass, fail or skip; test; rows; seconds; label,
separated by tabs. A row that is "tested with NAME" is judged only if there are results --with that name. Wrong (exit 1) is a
row marked tested that no test proved or one contradicted, a test that names a row which is not in the table, and a failed
test."""

import collections
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = os.path.join(ROOT, "tests", "conformance.txt")
ID = re.compile(r"[A-Z][A-Z0-9]*-[0-9]{2}$")
STATE = re.compile(r"(tested|tested with [A-Z]+|due: [^;]+|tested; due: [^;]+)$")


def read_table(path, wrong):
    """{id: (line, state)} in the order of the file."""
    table = {}
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            text = text.rstrip("\n")
            if text == "" or text.startswith("#"):
                continue
            fields = text.split("\t")
            if len(fields) != 3 or not ID.match(fields[0]) or not STATE.match(fields[2]):
                wrong.append(f"{path}:{number}: not id, text, state: {text}")
            elif fields[0] in table:
                wrong.append(f"{path}:{number}: {fields[0]} is there twice")
            else:
                table[fields[0]] = (fields[1], fields[2])
    return table


def read_results(paths, wrong):
    """A list of (outcome, test, rows, label)."""
    results = []
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, 1):
                fields = text.rstrip("\n").split("\t")
                if len(fields) != 5 or fields[0] not in ("pass", "fail", "skip"):
                    wrong.append(f"{path}:{number}: not a result: {text.rstrip()}")
                    continue
                results.append((fields[0], fields[1], fields[2].split(), fields[4]))
    return results


def judge(outcomes):
    """The result of a row: outcomes is {test: {"pass": labels, ...}}."""
    kinds = set(kind for labels in outcomes.values() for kind in labels)
    for kind in ("fail", "pass", "skip"):
        if kind in kinds:
            return kind
    return "-"


def needs(state):
    """The name in "tested with NAME", else ""."""
    return state[len("tested with "):] if state.startswith("tested with ") else ""


def print_rows(table, by_row, given, wrong):
    wide = max(len(state) for _, state in table.values())
    for row, (_, state) in table.items():
        outcomes = by_row[row]
        result = judge(outcomes)
        print(f"{row:9}{state:{wide}}  {result:5}{', '.join(outcomes)}".rstrip())
        if state.startswith("tested") and needs(state) in given:
            if not outcomes:
                wrong.append(f"{row} is marked tested, but no test names it")
            elif result == "skip":
                wrong.append(f"{row} is marked tested, but its tests were all skipped")
        for test, kinds in outcomes.items():
            if "fail" in kinds:
                wrong.append(f"{row}: {test} failed on {', '.join(kinds['fail'])}")


def print_summary(table, by_row, given):
    due = collections.Counter()
    for _, state in table.values():
        if "due: " in state:
            for part in state.split("due: ")[1].split(", "):
                due[part] += 1
    tested = [row for row, (_, state) in table.items() if state.startswith("tested")]
    proven = [row for row in tested if judge(by_row[row]) == "pass"]
    partly = [row for row in tested if "due" in table[row][1]]
    early = [row for row in by_row if by_row[row] and row in table and row not in tested]
    print(f"{len(table)} rows: {len(tested)} tested ({len(proven)} proven; {len(partly)} wait for something else too), "
          f"{len(table) - len(tested)} due")
    print("due: " + ", ".join(f"{part} {count}" for part, count in due.most_common()))
    for name in sorted(set(needs(state) for _, state in table.values()) - given):
        rows = [row for row in tested if needs(table[row][1]) == name]
        print(f"not judged, for want of results with {name}: {len(rows)}")
    if early:
        print("due, but with tests already: " + ", ".join(early))


def main(paths):
    wrong = []
    if not paths or paths[0].startswith("-"):
        sys.exit(__doc__)
    given = {""} | set(name for option, name in zip(paths, paths[1:]) if option == "--with")
    paths = [path for before, path in zip([""] + paths, paths) if path != "--with" and before != "--with"]
    table = read_table(TABLE, wrong)
    results = read_results(paths, wrong)
    by_row = collections.defaultdict(dict)
    strange = collections.defaultdict(set)
    for outcome, test, rows, label in results:
        for row in rows:
            if row not in table:
                strange[row].add(test)
            by_row[row].setdefault(test, {}).setdefault(outcome, []).append(label)
    print_rows(table, by_row, given, wrong)
    for row, tests in strange.items():
        wrong.append(f"{row} is not in the table, but named by {', '.join(sorted(tests))}")
    totals = collections.Counter(outcome for outcome, _, _, _ in results)
    for outcome, test, rows, label in results:
        if outcome == "fail" and not any(row in table for row in rows):
            wrong.append(f"{test} failed on {label}")
    if not results:
        wrong.append("there are no results")
    print()
    for line in wrong:
        print("wrong: " + line)
    print_summary(table, by_row, given)
    print(f"{totals['pass']} passed, {totals['fail']} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
