/** The signed-in page: what stands around the start screen and the recordings. */

import type { ConnectionState, EngineInfo } from "@parlance/client";
import type { Session } from "./api.js";
import { Logo } from "./icons.js";
import { RecorderBar } from "./RecorderBar.js";
import { RecordingView } from "./RecordingView.js";
import { useRoute } from "./route.js";
import type { Access } from "./session.js";
import { Sidebar } from "./Sidebar.js";
import { StartScreen } from "./StartScreen.js";
import { useConnection, type Connection } from "./useConnection.js";
import { useLibrary } from "./useLibrary.js";
import { useRecorder } from "./useRecorder.js";
import { useSearch } from "./useSearch.js";

export function Workspace({ session, access }: { session: Session; access: Access }) {
  const connection = useConnection(session, access.renew, access.expire);
  return connection && <Connected connection={connection} session={session} access={access} />;
}

interface ConnectedProps {
  connection: Connection;
  session: Session;
  access: Access;
}

function Connected({ connection, session, access }: ConnectedProps) {
  const { client, state, info } = connection;
  const { recordingId, segmentId } = useRoute();
  const library = useLibrary(connection, session);
  const search = useSearch(client, state);
  const recorder = useRecorder(client);
  const listed = library.library.recordings.find((recording) => recording.id === recordingId) ?? null;

  return (
    <div className="workspace" data-view={recordingId === null ? "start" : "recording"}>
      <Header state={state} session={session} isRecording={recorder.state !== "idle"} onSignOut={access.signOut} />
      <EngineNotice engine={info?.engine ?? null} />
      <Sidebar library={library} search={search} connectionState={state} current={recordingId} />
      <main className="stage">
        {recordingId === null ? (
          <StartScreen recorder={recorder} isConnected={state === "live"} />
        ) : (
          <RecordingView
            key={recordingId}
            connection={connection}
            token={session.token}
            recordingId={recordingId}
            segmentId={segmentId}
            listed={listed}
          />
        )}
      </main>
      <RecorderBar recorder={recorder} connectionState={state} shown={recordingId} />
    </div>
  );
}

const CONNECTION_WORDS: Record<ConnectionState, string> = {
  connecting: "Connecting…",
  live: "Connected",
  reconnecting: "Reconnecting…",
  closed: "Disconnected",
};

interface HeaderProps {
  state: ConnectionState;
  session: Session;
  isRecording: boolean;
  onSignOut: () => void;
}

function Header({ state, session, isRecording, onSignOut }: HeaderProps) {
  return (
    <header className="top">
      <a className="brand" href="#/">
        <Logo /> Parlance
      </a>
      <p className="connection" data-state={state} role="status">
        <span className="dot" aria-hidden="true" /> {CONNECTION_WORDS[state]}
      </p>
      <p className="who">
        <span title={`Signed in to ${session.tenant.name}`}>{session.user.name}</span>
        <button
          type="button"
          className="quiet"
          disabled={isRecording}
          title={isRecording ? "Stop the recording first" : undefined}
          onClick={onSignOut}
        >
          Sign out
        </button>
      </p>
    </header>
  );
}

function EngineNotice({ engine }: { engine: EngineInfo | null }) {
  if (!engine || (!engine.notice && engine.state === "ready")) return null;
  return (
    <aside className="notice" aria-label="About the speech engine">
      {engine.state === "starting" && <strong>The speech engine is starting. </strong>}
      {engine.state === "down" && <strong>The speech engine is down; what you record is kept and captioned later. </strong>}
      {engine.notice}
    </aside>
  );
}
