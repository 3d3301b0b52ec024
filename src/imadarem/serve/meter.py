"""What is counted, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "Meter"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Meter:
    """The counters of one server; they may be moved from any thread."""

    def __init__(self) -> None:
        self.registry = kept = CollectorRegistry()
        self.requests = Counter(
            "imadarem_requests", "Answers by route and status.", ["route", "status"], registry=kept
        )
        self.request_seconds = Histogram(
            "imadarem_request_seconds",
            "From the arrival of a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=kept,
        )
        self.waiting = Gauge("imadarem_queue_jobs", "Requests that wait or run.", registry=kept)
        self.cancelled = Counter(
            "imadarem_cancelled_jobs",
            "Requests whose client left or whose time was up.",
            registry=kept,
        )
        self.rows = Counter("imadarem_rows", "Rows refined to the end.", ["model"], registry=kept)
        self.passes = Counter(
            "imadarem_row_passes", "Forward passes, counted for each row.", ["model"], registry=kept
        )
        self.batch_rows = Histogram(
            "imadarem_batch_rows", "Rows refined together.", buckets=ROWS, registry=kept
        )
        self.batch_seconds = Histogram(
            "imadarem_batch_seconds",
            "Time of a batch in the engine.",
            buckets=SECONDS,
            registry=kept,
        )

    def page(self) -> bytes:
        """Everything, as ``/metrics`` shows it."""
        return generate_latest(self.registry)
