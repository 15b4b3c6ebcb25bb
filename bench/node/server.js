/**
 * Node's socket.io doing what bench/composed.py does, with the same commands: one JSON object a line on standard input,
 * one answer a line on standard output. Started by bench/beside.py as `node server.js '{"redis": URL?, "folder": PATH?}'`.
 *
 * socket.io as it comes, but for the transports: WebSocket alone, as Parlance serves it. Its WebSocket does not compress
 * by default. Events go to rooms with `io.to(room).emit`; audio is checked, appended with one synchronous write (which
 * costs Node less than `appendFile` or a stream) and not acknowledged.
 */

import { closeSync, openSync, writeSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Server } from "socket.io";

const settings = JSON.parse(process.argv[2] ?? "{}");
const tell = (answer) => process.stdout.write(JSON.stringify(answer) + "\n");
const now = () => Number(process.hrtime.bigint() / 1000n);

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  serveClient: false,
  pingInterval: 20_000,
  pingTimeout: 20_000,
});

if (settings.redis) {
  const { createAdapter } = await import("@socket.io/redis-adapter");
  const { createClient } = await import("redis");
  const publish = createClient({ url: settings.redis });
  const subscribe = publish.duplicate();
  await Promise.all([publish.connect(), subscribe.connect()]);
  io.adapter(createAdapter(publish, subscribe));
}

io.use((socket, next) => {
  const { token } = socket.handshake.auth;
  next(typeof token === "string" && token ? undefined : new Error("unauthenticated"));
});

io.on("connection", (socket) => {
  const streams = new Map();
  socket.join(["tenant:bench", "user:bench"]);
  socket.emit("ready", { protocol: 1, session_id: socket.id });

  socket.on("voice:recording:start", (wanted, answer) => {
    const id = `st_${socket.id}_${streams.size}`;
    streams.set(id, { end: 0, file: openSync(join(settings.folder, id), "a") });
    answer({ ok: true, stream_id: id, offset: 0 });
  });

  socket.on("voice:recording:chunk", (message) => {
    const refused = append(streams, message);
    if (refused) socket.emit("voice:recording:error", { error: { code: refused } });
  });

  socket.on("disconnect", () => {
    for (const { file } of streams.values()) closeSync(file);
  });
});

/** Validate and append; returns a code when it is refused. */
function append(streams, message) {
  if (typeof message !== "object" || message === null) return "bad_request";
  const { stream_id, offset, audio, ...rest } = message;
  if (Object.keys(rest).length) return "bad_request";
  if (typeof stream_id !== "string" || !Number.isSafeInteger(offset) || offset < 0) return "bad_request";
  if (!Buffer.isBuffer(audio) || audio.length > 512 * 1024) return "bad_request";
  const stream = streams.get(stream_id);
  if (!stream) return "not_found";
  if (offset !== stream.end) return "offset_mismatch";
  stream.end += writeSync(stream.file, audio);
  return undefined;
}

/** `count` events with growing `n` and the time `sent_us`, `per_s` of them a second, 0: back to back. */
async function emit({ room, event, body, first, count, per_s }) {
  const began = now();
  for (let k = 0; k < count; k++) {
    if (per_s) {
      const wait = began + (k * 1e6) / per_s - now();
      if (wait > 0) await sleep(wait / 1000);
    }
    io.to(room).emit(event, { n: first + k, sent_us: now(), ...body, segment_id: `seg_${first + k}` });
  }
}

for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));

http.listen(0, "127.0.0.1", () => {
  tell({ port: http.address().port });
  createInterface({ input: process.stdin })
    .on("line", async (line) => {
      await emit(JSON.parse(line));
      tell({ done: true });
    })
    .on("close", () => process.exit(0));
});
