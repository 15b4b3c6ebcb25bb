/** One recording's transcript: read whole, then followed through its room without a gap. */

import {
  asParlanceError,
  captionsOf,
  NO_CAPTIONS,
  reduceCaptions,
  type CaptionEvent,
  type CaptionState,
  type ParlanceError,
  type Recording,
} from "@parlance/client";
import { useCallback, useEffect, useReducer, useRef, useState } from "react";
import { readTranscript, type Transcript } from "../api.js";
import type { Connection } from "../shell/useConnection.js";
import { useRoom } from "../shell/useRoom.js";

export interface TranscriptView {
  recording: Recording | null;
  captions: CaptionState;
  isLoaded: boolean;
  error: ParlanceError | null;
  retry: () => void;
  /** Show at once what this page itself has changed; the room tells it too. */
  tell: (event: CaptionEvent) => void;
}

type Action = CaptionEvent | { type: "loaded"; transcript: Transcript };

function reduce(state: CaptionState, action: Action): CaptionState {
  return action.type === "loaded" ? captionsOf(action.transcript.segments, action.transcript) : reduceCaptions(state, action);
}

/** Rendered with the recording's id as key: each recording has a state of its own. */
export function useTranscript({ client, state }: Connection, token: string, recordingId: string): TranscriptView {
  const [captions, dispatch] = useReducer(reduce, NO_CAPTIONS);
  const [recording, setRecording] = useState<Recording | null>(null);
  const [seq, setSeq] = useState<number | undefined>(undefined);
  const [error, setError] = useState<ParlanceError | null>(null);
  const latestToken = useRef(token);
  latestToken.current = token;

  const load = useCallback(() => {
    setError(null);
    readTranscript(latestToken.current, recordingId).then(
      (transcript) => {
        dispatch({ type: "loaded", transcript });
        setRecording(transcript.recording);
        setSeq(transcript.seq);
      },
      (thrown: unknown) => setError(asParlanceError(thrown)),
    );
  }, [recordingId]);
  useEffect(load, [load]);
  // What could not be read without a connection is read when there is one.
  const isMissing = useRef(false);
  isMissing.current = error?.retryable === true && seq === undefined;
  useEffect(() => {
    if (state === "live" && isMissing.current) load();
  }, [state, load]);

  useEffect(() => {
    const ifMine = <B extends { recording_id: string }>(use: (body: B) => void) => {
      return (body: B): void => {
        if (body.recording_id === recordingId) use(body);
      };
    };
    const subscriptions = [
      client.on("transcript:partial", ifMine((body) => dispatch({ type: "partial", body }))),
      client.on("transcript:final", ifMine((body) => dispatch({ type: "final", body }))),
      client.on("transcript:revised", ifMine((body) => dispatch({ type: "revised", body }))),
      client.on("speaker:renamed", ifMine((body) => dispatch({ type: "renamed", body }))),
      client.on("speaker:merged", ifMine((body) => dispatch({ type: "merged", body }))),
      client.on("recording:ended", ({ recording: ended }) => {
        if (ended.id !== recordingId) return;
        dispatch({ type: "ended" });
        setRecording(ended);
      }),
    ];
    return () => subscriptions.forEach((unsubscribe) => unsubscribe());
  }, [client, recordingId]);

  useRoom(client, state, `recording:${recordingId}`, seq, load);
  return { recording, captions, isLoaded: seq !== undefined, error, retry: load, tell: dispatch };
}
