/** The signed-in page: what stands around the start screen and the recordings, and the keys. */

import { People } from "@parlance/client";
import { useCallback, useEffect, useRef, useState, type MouseEvent } from "react";
import { flushSync } from "react-dom";
import { Button } from "react-aria-components";
import type { Alert } from "../alerts/alerts.js";
import { AlertToast } from "../alerts/AlertToast.js";
import { useAlerts } from "../alerts/useAlerts.js";
import type { Session } from "../api.js";
import { RecordingView } from "../captions/RecordingView.js";
import { AnalyticsDialog } from "../insight/AnalyticsDialog.js";
import { Sidebar } from "../library/Sidebar.js";
import { useLibrary } from "../library/useLibrary.js";
import { MiniPlayer, STEP_MS } from "../player/PlayerBar.js";
import { usePlayer } from "../player/usePlayer.js";
import { CHOICES_KEY, FIRST_CHOICES } from "../record/choices.js";
import { RecorderBar } from "../record/RecorderBar.js";
import { RecordSetup } from "../record/RecordSetup.js";
import { useRecorder, type Recorder } from "../record/useRecorder.js";
import { useSearch } from "../search/useSearch.js";
import type { Access } from "../signin/session.js";
import { useNames } from "../speakers/useNames.js";
import { VoicesDialog } from "../speakers/VoicesDialog.js";
import { Ask } from "../ui/Ask.js";
import { Header } from "./Header.js";
import { hrefOf, useRoute } from "./route.js";
import { ServerStrip } from "./ServerStrip.js";
import { SHORTCUTS, useShortcuts, type Command } from "./shortcuts.js";
import { useStored } from "./stored.js";
import { useConnection, type Connection } from "./useConnection.js";

export function Workspace({ session, access }: { session: Session; access: Access }) {
  const connection = useConnection(session, access.renew, access.expire);
  return connection && <Connected connection={connection} session={session} access={access} />;
}

interface ConnectedProps {
  connection: Connection;
  session: Session;
  access: Access;
}

type Asking = "analytics" | "help" | "stop" | "voices" | null;

function Connected({ connection, session, access }: ConnectedProps) {
  const { client, state } = connection;
  const route = useRoute();
  const { recordingId } = route;
  const library = useLibrary(connection, session);
  const { recordings } = library.library;
  const search = useSearch(client, state, recordings.some((recording) => recording.state === "live"), recordingId);
  const searchBox = useRef<HTMLInputElement>(null);
  const recorder = useRecorder(client);
  const [title, setTitle] = useState("");
  const [choices, setChoices] = useStored(CHOICES_KEY, FIRST_CHOICES);
  /** On a phone: the search instead of the recording. */
  const [isFinding, setFinding] = useState(false);
  const [asking, setAsking] = useState<Asking>(null);
  const player = usePlayer();
  const isRecording = recorder.state !== "idle";
  const token = useRef(session.token);
  token.current = session.token;
  const [people] = useState(() => new People(() => token.current));
  const tokenNow = useCallback(() => token.current, []);
  const roles = connection.info?.user.roles ?? [];
  const mayEdit = roles.some((role) => role !== "viewer");
  const maySeeSearches = roles.includes("owner") || roles.includes("admin");
  const names = useNames(client, people);
  const alerts = useAlerts(client, session, connection.info?.features.includes("subscriptions") ?? false);
  const { want } = names;
  useEffect(() => want((alerts?.alerts ?? []).flatMap(namesIn)), [want, alerts?.alerts]);

  const start = (file?: File): void => {
    void recorder.start(title, choices, file).then((begun) => {
      if (begun === null) return;
      setTitle("");
      window.location.hash = hrefOf(begun);
    });
  };

  const find = (): void => {
    flushSync(() => setFinding(true)); // What is not shown cannot have the focus.
    searchBox.current?.focus();
  };

  const commands: Record<Command, () => void> = {
    search: find,
    help: () => setAsking("help"),
    play: () => player.toggle(),
    back: () => player.seek(player.positionMs - STEP_MS),
    forward: () => player.seek(player.positionMs + STEP_MS),
    record: () => {
      if (isRecording) setAsking("stop");
      else if (state === "live") start();
    },
  };
  useShortcuts((command) => commands[command]());

  return (
    <div
      className="workspace"
      data-view={recordingId === null ? "start" : "recording"}
      data-finding={isFinding || undefined}
      data-searching={search.text.trim() === "" ? undefined : true}
    >
      <a className="skip" href="#stage" onClick={skipTo}>
        Skip to the content
      </a>
      <Header
        connection={connection}
        session={session}
        isRecording={isRecording}
        onSignOut={access.signOut}
        onHelp={() => setAsking("help")}
        onSearch={recordingId === null ? null : () => (isFinding ? setFinding(false) : find())}
        onVoices={() => setAsking("voices")}
        onAnalytics={maySeeSearches ? () => setAsking("analytics") : null}
        alerts={alerts}
        library={library.library}
        called={names.called}
      />
      <ServerStrip connection={connection} isRecording={isRecording} />
      <Sidebar
        library={library}
        search={search}
        searchBox={searchBox}
        connection={connection}
        names={names}
        alerts={alerts}
        current={recordingId}
        onOpen={() => setFinding(false)}
      />
      <main className="stage" id="stage" tabIndex={-1}>
        {recordingId === null ? (
          <RecordSetup
            recorder={recorder}
            isConnected={state === "live"}
            title={title}
            setTitle={setTitle}
            choices={choices}
            setChoices={setChoices}
            onStart={start}
          />
        ) : (
          <RecordingView
            key={recordingId}
            connection={connection}
            token={session.token}
            people={mayEdit ? people : null}
            recordingId={recordingId}
            route={route}
            listed={recordings.find((recording) => recording.id === recordingId) ?? null}
          />
        )}
      </main>
      <footer className="bars">
        <MiniPlayer shown={recordingId} />
        <RecorderBar recorder={recorder} connectionState={state} shown={recordingId} />
      </footer>
      <Help isOpen={asking === "help"} onClose={() => setAsking(null)} />
      {asking === "voices" && <VoicesDialog people={people} mayEdit={mayEdit} onClose={() => setAsking(null)} />}
      {asking === "analytics" && <AnalyticsDialog token={tokenNow} onClose={() => setAsking(null)} />}
      {alerts && <AlertToast news={alerts.news} library={library.library} called={names.called} onClose={alerts.dismiss} />}
      <StopQuestion isOpen={asking === "stop" && isRecording} recorder={recorder} onClose={() => setAsking(null)} />
    </div>
  );
}

/** Recordings whose speakers an alert shows. */
function namesIn({ matches }: Alert): string[] {
  return matches.flatMap(({ hit }) => (hit.speaker === null ? [] : [hit.recording_id]));
}

/** The address after `#` is the route: the link must not change it. */
function skipTo(event: MouseEvent): void {
  event.preventDefault();
  document.getElementById("stage")?.focus();
}

function Help({ isOpen, onClose }: { isOpen: boolean; onClose: () => void }) {
  return (
    <Ask title="Keyboard shortcuts" isOpen={isOpen} onClose={onClose}>
      <dl className="shortcuts">
        {SHORTCUTS.map(({ keys, does }) => (
          <div key={keys}>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{does}</dd>
          </div>
        ))}
      </dl>
      <p className="hint">In a transcript, ↑ and ↓ go from one paragraph to the next, Enter plays it.</p>
      <Button slot="close" className="button">
        Close
      </Button>
    </Ask>
  );
}

function StopQuestion({ isOpen, recorder, onClose }: { isOpen: boolean; recorder: Recorder; onClose: () => void }) {
  const stop = (): void => {
    recorder.stop();
    onClose();
  };
  return (
    <Ask title="Stop the recording?" role="alertdialog" isOpen={isOpen} onClose={onClose}>
      <p>What was said so far is kept. A stopped recording cannot be continued.</p>
      <div className="dialog-buttons">
        <Button slot="close" className="button">
          Go on recording
        </Button>
        <Button className="button danger" autoFocus onPress={stop}>
          Stop
        </Button>
      </div>
    </Ask>
  );
}
