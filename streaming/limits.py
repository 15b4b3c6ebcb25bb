"""Every limit of the system, in bytes, milliseconds or counts, each with where it comes from.

Nothing grows without one of these. Relations between limits are asserted at import.
"""

import msgspec

KIB = 1024
MIB = 1024 * KIB


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # --- one socket -------------------------------------------------------------------------------------------
    message_bytes_max: int = 1 * MIB
    """Socket.IO closes with 1009 above. 1 MiB = 5 s of 48 kHz stereo s16le, far above the 100 ms chunks of clients."""
    streams_per_socket_max: int = 4
    """PROTOCOL.md, Live audio."""
    rooms_per_socket_max: int = 256
    """A page watches a handful, a bot follows a tenant's live talks."""
    malformed_events_max: int = 100
    """Malformed or unknown events in `malformed_window_ms` after which the socket is closed: a client in a loop."""
    malformed_window_ms: int = 10_000
    handler_ms_max: int = 2_000
    """PROTOCOL.md: an acknowledgement waits at most 2 s for its one store call."""
    outbox_packets_max: int = 2_000
    """Packets queued to one client before it is cut off as `slow_consumer`: 2,000 x about 500 B = 1 MB."""
    answers_waiting_max: int = 64
    """Packets queued to a client above which its next request waits: who does not read is not served. 64 answers of
    1,000 events are 64 MB, the worst a hostile client can hold."""
    answers_wait_ms_max: int = 5_000
    """A request that waited this long cuts its client off: far above a slow phone's second, below the ping timeout."""
    join_buffer_events_max: int = 5_000
    """Live events held back while a joining client replays; past it the replay starts over from the log."""
    replay_page_events: int = 500
    """Events read per query while a client catches up; 500 x about 1 KB keeps a page near 0.5 MB."""
    events_read_max: int = 1_000
    """PROTOCOL.md: `events:read` clamps its limit here."""
    sockets_max: int = 10_000
    """30 kB each when idle (measured): 300 MB."""

    # --- live audio -------------------------------------------------------------------------------------------
    chunk_bytes_max: int = 512 * KIB
    """Half a message: leaves room for the envelope and for the placeholder encoding."""
    credit_ms: int = 20_000
    """Audio a client may send beyond what is durable. Syncs come each second: 20 s rides out a slow disk."""
    credit_bytes_max: int = 4 * MIB
    """Caps `credit_ms` for high rates: 20 s at 48 kHz stereo are 3.7 MiB."""
    backlog_ms_max: int = 900_000
    """Durable audio that may wait for recognition (database away, worker restarting): 15 min, the abandon time."""
    sync_interval_ms: int = 1_000
    """DESIGN decision 3: audio is synced every second."""
    ack_interval_ms: int = 500
    """PROTOCOL.md wants one ack a second; twice that keeps the client's ring short."""
    abandon_ms: int = 900_000
    """PROTOCOL.md: a stream without its client is kept for 15 minutes."""
    lease_ms: int = 10_000
    """A node that did not renew for this long is taken for dead by the sweep; clients take over at once anyway."""
    lease_renew_ms: int = 3_000
    """Three chances before the lease ends."""
    recording_ms_max: int = 12 * 3_600_000
    """Twelve hours: longer talks are new recordings. 1.4 GB at 16 kHz mono."""
    stream_errors_max: int = 50
    """Non-fatal chunk errors in a row before the stream ends as failed."""
    containers_max: int = 1_000
    """Containers in one recording: a recorder that begins anew every 43 s for twelve hours."""
    flush_marks_max: int = 64
    """Flush, pause and resume marks waiting in one stream."""

    # --- audio ------------------------------------------------------------------------------------------------
    sample_rate_hz_min: int = 4_000
    sample_rate_hz_max: int = 192_000
    """From half of telephone bandwidth to the fastest sound cards."""
    channels_max: int = 8
    """A sum of 8 int16 needs 18 bits: exact in float32's 24 when channels are mixed down."""
    container_element_bytes_max: int = 64 * KIB
    """What a demuxer holds of a container: a header, a page or a packet. The largest Opus packet, 48 frames of 1,275
    bytes, has 60 KiB; an Ogg page 63.9 KiB; headers of browsers some hundred bytes."""
    container_header_bytes_max: int = 64 * KIB
    """Init bytes kept with a part. What comes later in a longer header (pictures, attachments) no decoder needs."""
    container_skip_bytes_max: int = 2**31
    """One element that is stepped over: more than twelve hours of 256 kbit/s (1.4 GB), so a larger one is no size."""
    container_garbage_bytes_max: int = 128 * KIB
    """Between two pages of Ogg: a page of the greatest size may be damaged, and what it swallowed."""
    container_false_pages_max: int = 64
    """Candidates for a page with a wrong checksum in a row: 64 pages of 64 KiB take 10 ms to check."""
    audio_gap_ms_min: int = 100
    """Timestamps of browsers vary by 15 ms around the audio (measured); a packet has 60 ms at most there."""
    audio_gap_ms_max: int = 10_000
    """A microphone that was pulled and put back. Silence of 10 s takes 1.9 MB while it is resampled."""
    audio_bad_packets_max: int = 50
    """Unreadable packets in a row: a second of audio in packets of 20 ms."""

    # --- recognition ------------------------------------------------------------------------------------------
    read_bytes: int = 64 * KIB
    """Bytes the pipeline takes from the audio log at once: 2 s at 16 kHz, keeps the loop responsive."""
    container_read_bytes: int = 8 * KIB
    """The same of a container: 2 s of what browsers send. Hostile packets of two bytes decode to 120 ms each: 8 minutes
    from one piece, 15 MB at 16 kHz and 90 MB while they are resampled."""
    utterances_unfinished_max: int = 3
    """Utterances of one stream between first sample and commit: bounds held audio at 3 x 30 s x 32 kB/s = 2.9 MB."""
    utterance_ms_max: int = 30_000
    """Whisper's window; no engine gets a longer utterance."""
    utterance_attempts_max: int = 8
    """Worker losses over one utterance before it is set aside as poison (its audio stays in the log)."""
    worker_restart_ms_max: int = 5_000
    """Ceiling of the back-off between worker restarts."""
    worker_inflight_bytes_max: int = 1 * MIB
    """Audio on the pipe to one utterance that the worker has not taken yet: one whole utterance of 30 s."""
    worker_pcm_bytes_max: int = 64 * KIB
    """Audio in one message to a worker: 2 s, about 0.3 s of decoding, so that a stall is noticed between."""
    worker_context_bytes_max: int = 64 * KIB
    """An engine's context: PocketSphinx takes 200 B, a prompt of Whisper's 1 KiB."""
    worker_frame_bytes_max: int = 256 * KIB
    """The largest message is an `Open` with a full vocabulary, 200 terms x 80 characters x 4 bytes = 62.5 KiB, and a
    context. Everything else is below 100 KiB."""
    worker_replies_bytes_max: int = 1 * MIB
    """Replies waiting for a slow server before the worker reads nothing more from anybody."""
    worker_idle_max: int = 8
    """Idle decoders kept after a peak: 8 x 35 MB = 280 MB."""
    worker_stall_ms: int = 60_000
    """Without any answer to pending work. A piece of 2 s takes 0.3 s to decode, a final of 30 s of speech below 2 s:
    even 20 times overloaded a healthy decoder answers in less."""
    worker_hello_ms_max: int = 120_000
    """Loading takes PocketSphinx 0.4 s and a large model from a slow disk a minute; past this the worker hangs."""
    worker_stop_ms_max: int = 3_000
    """A worker ends within milliseconds of its socket, unless it is loading its model: then it is killed."""
    worker_line_bytes_max: int = 4 * KIB
    """A line of a worker's log."""
    call_bytes_max: int = 4 * MIB
    """A call to an embedding or alignment worker: 30 s of audio are 0.9 MiB, 64 texts far less; an answer of 64
    vectors of 1,024 floats is 256 KiB."""
    worker_calls_max: int = 64
    """Calls that wait for one such worker: each is a search or a background batch."""
    align_stall_ms: int = 180_000
    """One final at the alignment worker: 30 s of audio take 4 s with a base model and 17 s with a large one, which is
    loaded first (a minute from a slow disk), on a machine that is busy with captions."""
    align_tries_max: int = 3
    """Tries before a final is set aside: each may have cost a worker, whose next start takes 16 s."""
    align_batch_max: int = 8
    """Finals of one recording revised by one event: 6 s of work each at worst, and a page need not draw for each."""
    align_age_s_max: int = 86_400
    """Older finals are left as they are: weights that arrive today shall not grind through an archive, which costs
    0.14 s of CPU for each second of talk."""
    remote_final_ms_max: int = 8_000
    """A final waits this long for the remote service, all tries together, then the local text is taken. Services answer
    30 s of speech in 1 to 3 s; a reader who sees the partial does not miss the final for a few seconds."""
    remote_calls_max: int = 8
    """Finals at the remote service at once: 8 x 1 MiB of audio, and services allow some 50 requests a minute."""
    remote_answer_bytes_max: int = 256 * KIB
    """150 words with times in verbose JSON are 15 KiB, their tokens and log probabilities as much again."""
    vocabulary_terms_max: int = 200
    vocabulary_term_chars_max: int = 80

    # --- models -----------------------------------------------------------------------------------------------
    models_room_bytes: int = 9_000_000_000
    """Free on the disk before the models environment is installed: 7.8 GB with CUDA, and some for everybody."""
    models_installed_bytes: int = 7_800_000_000
    """What uv writes while it installs it (measured): the whole of its progress."""
    models_retry_ms_min: int = 30_000
    models_retry_ms_max: int = 3_600_000
    """Between tries to reach the package index: a laptop on a train, and a machine that never has a network."""
    models_log_interval_ms: int = 10_000
    """A line in the log while something large arrives."""
    model_retry_ms: int = 3_600_000
    """Between tries to fetch a Whisper from a hub that was not there: whoever cannot wait uses `models pull`."""
    hub_answer_ms_max: int = 5_000
    """DESIGN decision 10: an unreachable hub is one line after 5 s."""

    # --- committing -------------------------------------------------------------------------------------------
    commit_batch_ms: int = 5
    """DESIGN decision 1: finals of a node share a transaction; 5 ms is below what a reader notices."""
    commit_batch_items_max: int = 200
    commit_queue_items_max: int = 4_000
    """Streams wait for their own commits, so this is never reached with fewer than 4,000 streams."""

    # --- database and jobs ------------------------------------------------------------------------------------
    database_connections_max: int = 10
    """Per node: two cores' worth of queries in flight, far below Postgres' default of 100."""
    database_acquire_ms_max: int = 2_000
    """PROTOCOL.md: an acknowledgement waits at most 2 s."""
    database_command_ms_max: int = 30_000
    """No statement of ours takes seconds; one that takes this long has lost its database."""
    database_log_bytes_max: int = 4 * MIB
    """The embedded database's log is emptied above this size."""
    job_statement_ms_max: int = 10_000
    """Statements of the queue take milliseconds; one that takes this long has lost its database."""
    job_drain_ms_max: int = 5_000
    """A runner that ends gives running jobs this long, then leaves them to be picked again."""
    jobs_picked_max: int = 20
    """Jobs a runner holds at once: two batches of 10, as PgQueuer wants."""

    # --- HTTP -------------------------------------------------------------------------------------------------
    http_body_bytes_max: int = 64 * KIB
    """Bodies are login codes and small JSON; audio goes through the socket."""
    http_page_items_max: int = 100
    media_read_bytes: int = 256 * KIB
    """Kept audio is sent in pieces of this size."""
    playback_decoders_max: int = 2
    """Threads that decode or scan kept audio for listeners: 4 ms a second of Opus (measured), 250 listeners a core."""
    playback_indexes_max: int = 64
    """Recordings whose parts are remembered for playback: 1.4 MB for twelve hours, 0.1 MB for one."""
    login_link_s_max: int = 7 * 86_400
    past_streams_max: int = 64
    """Ended streams of a connection whose late chunks are answered `stream_ended` instead of `not_found`."""
    close_ms_max: int = 2_000
    """For a client to take what is queued and the goodbye; then its transport is cut."""

    # --- text -------------------------------------------------------------------------------------------------
    title_chars_max: int = 200
    marker_chars_max: int = 200
    id_chars_max: int = 100
    token_chars_max: int = 4_096
    query_chars_max: int = 500
    """A question or phrase, not a document."""
    query_words_max: int = 32

    # --- search -----------------------------------------------------------------------------------------------
    search_hits_max: int = 100
    search_candidates_max: int = 500
    """Rank at most this many newest matches: ranking 19,000 takes 47 ms, 500 takes 3 ms (measured)."""
    search_word_chars_max: int = 64
    """Code points of a word that are compared. Postgres refuses lexemes over 2,046 bytes; 64 x 4 bytes stay below, and
    the longest words of dictionaries have about 50 letters."""
    search_text_words_max: int = 10_000
    """Words of one segment that are indexed. 30 s of talk have about 150; Postgres keeps no position above 16,383."""
    search_slots_per_socket_max: int = 8
    search_ms_max: int = 5_000
    search_nearest_max: int = 100
    """Segments near in meaning that are fused with the words' matches: what stands lower helps nobody."""
    search_exact_max: int = 10_000
    """Vectors compared one by one, in 20 ms; above, the index of neighbours is asked (measured: recall 1.0 against
    0.99 for a tenant with a seventh of all rows, and far less for a smaller one)."""
    embed_query_ms_max: int = 1_000
    """A query is embedded in 4 ms, behind a background call in 60; later than this the words' answer has to do."""
    embed_text_chars_max: int = 8_000
    """Of a text that is embedded: models read 256 to 8,192 tokens, and 30 s of talk have about 900 characters."""
    query_vectors_max: int = 500
    """Remembered vectors of queries: 500 x 1.5 KiB for what people type within some minutes."""


def check(limits: Limits) -> Limits:
    """Assert the relations between limits; returns its argument."""
    assert limits.chunk_bytes_max * 2 <= limits.message_bytes_max, "a chunk and its envelope fit into a message"
    assert limits.ack_interval_ms <= 1_000, "PROTOCOL.md: an ack at least once a second"
    assert limits.ack_interval_ms <= limits.sync_interval_ms, "audio is synced with every acknowledgement"
    assert limits.lease_renew_ms * 3 <= limits.lease_ms, "three renewals before a lease ends"
    assert limits.credit_ms >= 5 * limits.sync_interval_ms, "credit rides out several syncs"
    assert limits.backlog_ms_max >= limits.abandon_ms, "an orphan's audio fits into its backlog"
    assert limits.worker_inflight_bytes_max >= limits.utterance_ms_max * 32, "a whole utterance can be offered again"
    assert limits.worker_inflight_bytes_max >= limits.worker_pcm_bytes_max, "flow control lets a piece through"
    vocabulary_bytes = limits.vocabulary_terms_max * (limits.vocabulary_term_chars_max * 4 + 5)
    largest_open = vocabulary_bytes + limits.worker_context_bytes_max + 4 * KIB
    assert max(largest_open, limits.worker_pcm_bytes_max + KIB) <= limits.worker_frame_bytes_max
    assert limits.call_bytes_max >= 2 * limits.utterance_ms_max * 32, "an utterance and its words fit into a call"
    assert limits.align_batch_max <= 200, "PROTOCOL.md: at most 200 segments a revision"
    assert limits.database_acquire_ms_max <= limits.handler_ms_max, "a handler's deadline holds"
    assert limits.answers_waiting_max < limits.outbox_packets_max, "a request waits before its client is cut off"
    assert limits.models_installed_bytes < limits.models_room_bytes, "what is installed fits into the room asked for"
    assert limits.models_retry_ms_min <= limits.models_retry_ms_max
    assert limits.embed_query_ms_max < limits.search_ms_max, "without a vector in time the words' answer still comes"
    assert limits.replay_page_events <= limits.events_read_max <= limits.join_buffer_events_max
    return limits


LIMITS = check(Limits())
