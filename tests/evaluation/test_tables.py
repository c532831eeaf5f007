"""Tables of metrics in the log."""

from __future__ import annotations

import logging

from spil_d2.evaluation import log_metrics_table

TABLES = """\
Evaluation of boxes, 100%, in percent
search:
|  AP   |  P@10  |
|:-----:|:------:|
| 12.35 |  2.00  |
localization:
|  mIoU  |
|:------:|
|  nan   |"""


def test_each_group_is_a_table_with_two_decimals(caplog) -> None:
    metrics = {"search": {"AP": 12.349, "P@10": 2.0}, "localization": {"mIoU": float("nan")}}
    with caplog.at_level(logging.INFO, logger="spil_d2"):
        assert log_metrics_table(metrics, "boxes, 100%") == TABLES
    assert caplog.messages == [TABLES]
