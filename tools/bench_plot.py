#!/usr/bin/env python3
"""Draws what `tools/bench.py --only engines` measured: the server's CPU per request and the requests per second by the
number of connections, a line for each server. The same results give the same file, to the byte."""

import json
import os
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

# The colours of Okabe and Ito, which the colour-blind tell apart; with marks and dashes, for print without colours.
# io_uring is drawn solid, epoll dashed.
LOOKS = {
    "aioloop epoll": ("#0072B2", "o", "--", 2.0),
    "aioloop io_uring": ("#D55E00", "o", "-", 2.0),
    "hand epoll": ("#56B4E9", "s", "--", 1.2),
    "hand io_uring": ("#E69F00", "s", "-", 1.2),
    "libev": ("#009E73", "^", ":", 1.2),
    "libuv": ("#CC79A7", "v", ":", 1.2),
}
SIZES = ((64, "64 B"), (1024, "1 KiB"))
FIGURES = (("server_cpu_us", "server CPU per request, µs"), ("rate", "requests per second, thousands"))
SCALE = {"server_cpu_us": 1, "rate": 1000}


def read(path):
    """The machine's line, and of the echo cases: points[size, server, figure] of connections and median."""
    about, points = {}, {}
    with open(path) as lines:
        for line in map(json.loads, lines):
            if "machine" in line:
                about = line
            if line.get("kind") == "echo":
                for figure, median in line["median"].items():
                    points.setdefault((line["size"], line["server"], figure), []).append(
                        (line["connections"], median / SCALE[figure]))
    return about, points


def draw(about, points):
    figure, places = plt.subplots(2, 2, figsize=(10, 7.4), sharex=True, sharey="row")
    for row, (key, title) in enumerate(FIGURES):
        for column, (size, size_text) in enumerate(SIZES):
            place = places[row][column]
            ticks = set()
            for server, (colour, mark, dashes, width) in LOOKS.items():
                line = sorted(points.get((size, server, key), []))
                if line:
                    place.plot(*zip(*line), color=colour, marker=mark, linestyle=dashes, linewidth=width, markersize=5,
                               label=server)
                    ticks.update(connections for connections, _ in line)
            place.set_xscale("log")
            place.set_xticks(sorted(ticks), ["{:,}".format(tick) for tick in sorted(ticks)])
            place.set_xticks([], minor=True)
            place.grid(True, color="#dddddd", linewidth=0.6)
            place.spines[["top", "right"]].set_visible(False)
            if row == 0:
                place.set_title("echo of " + size_text)
            else:
                place.set_xlabel("connections")
            if column == 0:
                place.set_ylabel(title)
        places[row][0].set_ylim(bottom=0)  # of both, and after both: it fixes the upper end
    figure.legend(*places[0][0].get_legend_handles_labels(), loc="upper center", ncols=len(LOOKS), frameon=False)
    machine = about["machine"]
    figure.text(0.5, 0.008, "medians of %d rounds; server and client on a core each, over the loopback; %s, Linux %s" %
                (about["rounds"], machine["cpu"], ".".join(machine["kernel"].split("-")[0].split(".")[:2])),
                ha="center", fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0.025, 1, 0.96))
    return figure


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: bench_plot.py RESULTS.json FIGURE.svg")
    # Names of parts of the picture would else be random, and text would be outlines.
    plt.rcParams.update({"svg.hashsalt": "aioloop", "svg.fonttype": "none", "font.size": 10,
                         "font.family": ["sans-serif"]})
    try:
        about, points = read(sys.argv[1])
    except OSError as error:
        sys.exit("%s (make bench-engines writes such a file)" % error)
    if not points:
        sys.exit(sys.argv[1] + ": no echo cases in it")
    os.makedirs(os.path.dirname(os.path.abspath(sys.argv[2])), exist_ok=True)
    draw(about, points).savefig(sys.argv[2], metadata={"Date": None, "Creator": None}, facecolor="white")


if __name__ == "__main__":
    main()
