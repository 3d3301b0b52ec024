"""Counters of one server in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters; every method of a counter may be called from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "imadarem_requests",
            "Answers by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "imadarem_request_seconds",
            "From the arrival of a request to the end of its answer.",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.queue_jobs = Gauge(
            "imadarem_queue_jobs", "Requests that wait or run.", registry=registry
        )
        self.cancelled = Counter(
            "imadarem_cancelled_jobs",
            "Requests whose client disconnected or whose time was up.",
            registry=registry,
        )
        self.rows = Counter("imadarem_rows", "Finished rows.", ["model"], registry=registry)
        self.passes = Counter(
            "imadarem_row_passes",
            "Forward passes, counted for each row.",
            ["model"],
            registry=registry,
        )
        self.batch_rows = Histogram(
            "imadarem_batch_rows", "Rows refined together.", buckets=ROWS_BUCKETS, registry=registry
        )
        self.batch_seconds = Histogram(
            "imadarem_batch_seconds",
            "Time to refine one batch.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )

    def render(self) -> bytes:
        """All counters, as ``/metrics`` answers."""
        return generate_latest(self.registry)
