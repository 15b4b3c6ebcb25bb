/** The list of recordings, loaded page by page and kept current by the tenant's and the user's room. */

import { asParlanceError, type ParlanceError } from "@parlance/client";
import { useCallback, useEffect, useRef, useState } from "react";
import { listRecordings, type Session } from "../api.js";
import { NO_LIBRARY, withEvent, withPage, type Library } from "./recordings.js";
import { useRoom } from "../shell/useRoom.js";
import type { Connection } from "../shell/useConnection.js";

export interface LibraryView {
  library: Library;
  error: ParlanceError | null;
  loadMore: () => void;
}

export function useLibrary({ client, state }: Connection, session: Session): LibraryView {
  const [library, setLibrary] = useState<Library>(NO_LIBRARY);
  const [error, setError] = useState<ParlanceError | null>(null);
  const token = useRef(session.token);
  token.current = session.token;

  const load = useCallback((cursor?: string) => {
    listRecordings(token.current, cursor).then(
      (page) => {
        setLibrary((known) => withPage(known, page.recordings, page.next_cursor ?? null));
        setError(null);
      },
      (thrown: unknown) => setError(asParlanceError(thrown)),
    );
  }, []);

  useEffect(() => {
    const onRecording = ({ recording }: { recording: Library["recordings"][number] }): void => {
      setLibrary((known) => withEvent(known, recording));
    };
    const subscriptions = [
      client.on("recording:started", onRecording),
      client.on("recording:updated", onRecording),
      client.on("recording:ended", onRecording),
    ];
    return () => subscriptions.forEach((unsubscribe) => unsubscribe());
  }, [client]);

  // Listen first, then read: what changes in between arrives as an event and wins.
  const isTenantJoined = useRoom(client, state, `tenant:${session.tenant.id}`, null, load);
  const isUserJoined = useRoom(client, state, `user:${session.user.id}`, null, load);
  useEffect(() => {
    if (isTenantJoined && isUserJoined) load();
  }, [isTenantJoined, isUserJoined, load]);

  const { nextCursor } = library;
  const loadMore = useCallback(() => nextCursor !== null && load(nextCursor), [nextCursor, load]);
  return { library, error, loadMore };
}
