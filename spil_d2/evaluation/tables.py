"""Metric dictionaries as tables in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tabulate import tabulate

logger = logging.getLogger(__name__)


def log_metrics_table(results: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Log one table for each group of metrics, and return the text.

    Args:
        results: group ("localization", "search", ...) -> {metric -> value, in percent}.
        title: what was evaluated, e.g. the dataset's name.
    """
    tables = [
        f"{group}:\n"
        + tabulate(
            [[f"{value:.2f}" for value in metrics.values()]],
            headers=list(metrics),
            tablefmt="pipe",
            stralign="center",
            disable_numparse=True,
        )
        for group, metrics in results.items()
    ]
    text = "\n".join([f"Evaluation of {title}, in percent", *tables])
    logger.info("%s", text)
    return text
