"""Names and shapes of everything the server tells about itself: metrics and logs.

Logs are static messages with data in fields; text that was spoken or typed, tokens and login codes never enter them.
JSON where nobody watches, one readable line each on a terminal.
"""

import logging
import sys
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pythonjsonlogger.json import JsonFormatter

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RecogniserMetrics:
    """What a worker with a shared model says of itself once a second."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.busy = Gauge(
            "parlance_recogniser_busy_ratio", "Share of the last second that the model decoded", ["worker"],
            registry=registry,
        )  # fmt: skip
        self.delay = Gauge(
            "parlance_recogniser_delay_seconds", "Until all that waits for the model would be decoded", ["worker"],
            registry=registry,
        )  # fmt: skip
        self.utterances = Gauge("parlance_recogniser_utterances", "Open utterances", ["worker"], registry=registry)
        self.thinned = Gauge(
            "parlance_recogniser_thinned_tenants", "Tenants with fewer partials, because the model has no time",
            ["worker"], registry=registry,
        )  # fmt: skip


class SpeakerMetrics:
    """Who spoke, live."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.labelled = Counter(
            "parlance_finals_labelled", "Finals that said who spoke when they were committed", registry=registry
        )
        self.revisions = Counter(
            "parlance_speaker_revisions", "Segments told again because somebody else spoke, or several people",
            registry=registry,
        )  # fmt: skip
        self.unheard = Counter(
            "parlance_speech_unheard_seconds", "Speech that the diariser did not hear", registry=registry
        )
        self.lag_seconds = Histogram(
            "parlance_listener_lag_seconds", "Age of the oldest speech that the diariser was not asked about",
            buckets=LATENCY_BUCKETS, registry=registry,
        )  # fmt: skip


class PassMetrics:
    """The second pass over kept audio."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.pieces = Counter("parlance_pass_pieces", "Pieces of kept audio that were read again", registry=registry)
        self.merged = Counter("parlance_passes", "Second passes put into transcripts", registry=registry)
        self.discarded = Counter(
            "parlance_passes_discarded", "Second passes that heard less than what was there", registry=registry
        )
        self.behind_seconds = Gauge(
            "parlance_pass_behind_seconds", "How long the oldest recording waits for its second pass",
            registry=registry,
        )  # fmt: skip


class IndexMetrics:
    """From what was said to what can be found."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "parlance_index_seconds", "From the commit of segments until they can be found",
            buckets=LATENCY_BUCKETS, registry=registry,
        )  # fmt: skip
        self.weaviate_seconds = Histogram(
            "parlance_weaviate_seconds", "Calls to Weaviate", buckets=LATENCY_BUCKETS, registry=registry
        )
        self.weaviate_failures = Counter(
            "parlance_weaviate_failures", "Calls to Weaviate that brought nothing", registry=registry
        )
        self.jobs = Gauge("parlance_index_jobs", "Index jobs that wait or run, of all nodes", registry=registry)
        self.oldest_seconds = Gauge(
            "parlance_index_oldest_seconds", "Age of the oldest index job that waits or runs", registry=registry
        )


class SearchMetrics:
    """Searches, and who waits for what is said."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.superseded = Counter(
            "parlance_searches_superseded", "Searches that a newer one of their slot ended", registry=registry
        )
        self.forgotten = Counter(
            "parlance_searches_forgotten", "Searches and opened hits that were not remembered", registry=registry
        )
        self.subscriptions = Gauge("parlance_subscriptions", "Subscriptions at this node", registry=registry)
        self.matches = Counter("parlance_matches", "Segments told to subscriptions", registry=registry)
        self.matching_seconds = Histogram(
            "parlance_matching_seconds", "Some segments compared with all subscriptions of a tenant",
            buckets=LATENCY_BUCKETS, registry=registry,
        )  # fmt: skip


class Metrics:
    """Every metric, with its unit last in its name. One registry per process."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=True)
        self.sockets = Gauge("parlance_sockets", "Open sockets", registry=self.registry)
        self.streams = Gauge("parlance_streams", "Live streams on this node", registry=self.registry)
        self.audio_bytes = Counter("parlance_audio_bytes", "Encoded audio bytes taken in", registry=self.registry)
        self.partials = Counter("parlance_partials", "Partial captions sent to rooms", registry=self.registry)
        self.finals = Counter("parlance_finals", "Final segments committed", registry=self.registry)
        self.hops_skipped = Counter(
            "parlance_hypotheses_skipped", "Partial hypotheses skipped because the recogniser was behind",
            registry=self.registry,
        )  # fmt: skip
        self.speakers: Final = SpeakerMetrics(self.registry)
        self.events_sent = Counter("parlance_events_sent", "Events put into sockets", registry=self.registry)
        self.slow_consumers = Counter(
            "parlance_slow_consumers", "Sockets cut off because they did not read", registry=self.registry
        )
        self.event_streams = Gauge("parlance_event_streams", "Rooms followed over HTTP (SSE)", registry=self.registry)
        self.events_expired = Counter(
            "parlance_events_expired", "Events deleted because of their age", registry=self.registry
        )
        self.nodes = Gauge(
            "parlance_nodes", "Nodes that work together, this one included, as Redis knows them", registry=self.registry
        )
        self.nodes.set(1)
        self.hints = Counter("parlance_hints", "Room events told to the other nodes", registry=self.registry)
        self.hints_dropped = Counter(
            "parlance_hints_dropped", "Room events not told to the other nodes", ["why"], registry=self.registry
        )
        self.hints_ignored = Counter(
            "parlance_hints_ignored", "Messages over Redis that were not understood", ["why"], registry=self.registry
        )
        self.rooms_behind = Counter(
            "parlance_rooms_behind", "Times a room's log held events that nobody had told", registry=self.registry
        )
        self.reads_slowed = Counter(
            "parlance_reads_slowed", "Messages read later because their sender was too fast", registry=self.registry
        )
        self.refusals = Counter("parlance_refusals", "Refused requests", ["code"], registry=self.registry)
        self.worker_restarts = Counter(
            "parlance_worker_restarts", "Worker processes started again", registry=self.registry
        )
        self.passes: Final = PassMetrics(self.registry)
        self.recogniser: Final = RecogniserMetrics(self.registry)
        self.lag_seconds = Histogram(
            "parlance_lag_seconds", "Received but not yet processed audio, sampled at each acknowledgement",
            buckets=LATENCY_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.final_seconds = Histogram(
            "parlance_final_seconds", "From the hand-over of a final to its commit",
            buckets=LATENCY_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.commit_seconds = Histogram(
            "parlance_commit_seconds", "One commit batch", buckets=LATENCY_BUCKETS, registry=self.registry
        )
        self.seal_seconds = Histogram(
            "parlance_seal_seconds", "One object of kept audio into shared storage",
            buckets=LATENCY_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.storage_failures = Counter(
            "parlance_storage_failures", "Objects that shared storage did not take", registry=self.registry
        )
        self.index: Final = IndexMetrics(self.registry)
        self.searches: Final = SearchMetrics(self.registry)
        self.search_seconds = Histogram(
            "parlance_search_seconds", "One search query", buckets=LATENCY_BUCKETS, registry=self.registry
        )
        self.handler_seconds = Histogram(
            "parlance_handler_seconds", "One client event, by name", ["event"],
            buckets=LATENCY_BUCKETS, registry=self.registry,
        )  # fmt: skip


METRICS: Final = Metrics()

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """`12:00:01 info  message key=value`, for terminals."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={v}" for k, v in vars(record).items() if k not in STANDARD)
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {record.getMessage()} {fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line.rstrip()


def by_us(record: logging.LogRecord) -> bool:
    """Whether a line of the HTTP library's is about us. It writes a traceback for each request that is no HTTP, which
    quotes what was sent, tokens too; and one when a client leaves before its answer."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | RequestPayloadError | ConnectionError)


def set_up_logging(level: str, style: str) -> None:
    """Log to stderr. `style`: "json", "text", or "auto" (text on a terminal)."""
    handler = logging.StreamHandler(sys.stderr)
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler.setFormatter(
        TextFormatter()
        if text
        else JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "at", "levelname": "level", "name": "logger"},
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiohttp.access", "socketio", "engineio", "asyncio", "pgqueuer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(by_us)
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)  # a traceback a second while the database is away
