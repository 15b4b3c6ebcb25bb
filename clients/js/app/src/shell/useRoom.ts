/** Be in a room while a component is shown. The client joins again after reconnects by itself. */

import { asParlanceError, type ConnectionState, type Parlance } from "@parlance/client";
import { useEffect, useRef, useState } from "react";

const RETRY_MS = 2_000;

/**
 * `afterSeq`: a number to get everything later, null for live events only, undefined to wait. `onReset`: the log no
 * longer reaches back to where this page stood: read the present state anew. Returns whether the room is joined.
 */
export function useRoom(
  client: Parlance,
  state: ConnectionState,
  room: string,
  afterSeq: number | null | undefined,
  onReset: () => void,
): boolean {
  const [joined, setJoined] = useState<string | null>(null);
  const [failures, setFailures] = useState(0);
  const reset = useRef(onReset);
  reset.current = onReset;
  const isLive = state === "live";
  const isReady = afterSeq !== undefined;

  useEffect(() => {
    setJoined(null);
    return () => void client.leave(room).catch(() => undefined);
  }, [client, room]);

  useEffect(() => {
    if (!isLive || !isReady || joined === room) return;
    let isCurrent = true;
    let timer: ReturnType<typeof setTimeout> | undefined;
    client.join(room, afterSeq === null ? {} : { afterSeq }).then(
      () => isCurrent && setJoined(room),
      (thrown: unknown) => {
        if (!isCurrent) return;
        const error = asParlanceError(thrown);
        if (error.code === "history_truncated") reset.current();
        else if (error.retryable || error.code === "timeout") {
          timer = setTimeout(() => setFailures((count) => count + 1), error.retryAfterMs ?? RETRY_MS);
        }
      },
    );
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [client, room, afterSeq, isLive, isReady, joined, failures]);

  useEffect(
    () =>
      client.on("room:reset", (event) => {
        if (event.room !== room) return;
        setJoined(null);
        reset.current();
      }),
    [client, room],
  );

  return joined === room;
}
