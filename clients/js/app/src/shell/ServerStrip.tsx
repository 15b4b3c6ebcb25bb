/** What the server says about itself: notices of its engine, why nobody is told apart, and long work on itself. Quiet, but
 * never hidden. */

import type { EngineInfo, Ready, ServerStatus, StatusTask } from "@parlance/client";
import { ProgressBar } from "react-aria-components";
import type { Connection } from "./useConnection.js";

export function ServerStrip({ connection, isRecording }: { connection: Connection; isRecording: boolean }) {
  const { state, status, info } = connection;
  const engine = status?.engine ?? info?.engine ?? null;
  // What waits for its turn is told under the connection's button.
  const notices = [engineWords(engine), speakerWords(info, status)].filter((words) => words !== "");
  const tasks = (status?.tasks ?? []).filter(({ state: of }) => of === "running" || of === "failed");
  const isAway = state === "reconnecting" && !isRecording; // The recording says it itself, with what is kept.
  if (!isAway && tasks.length === 0 && notices.length === 0) return null;
  return (
    <aside className="strip" aria-label="About the server">
      {isAway && (
        <p className="away" role="status">
          No connection to the server. Trying again…
        </p>
      )}
      {notices.map((words) => (
        <p key={words} className="notice">
          {words}
        </p>
      ))}
      {tasks.map((task) => (
        <Task key={task.name} task={task} />
      ))}
    </aside>
  );
}

export function engineWords(engine: EngineInfo | null): string {
  if (!engine) return "";
  const said = [engine.notice ?? ""];
  if (engine.state === "starting") said.unshift("The speech engine is starting; what is said is kept and captioned then.");
  if (engine.state === "down") said.unshift("The speech engine is down; what you record is kept and captioned later.");
  return said.filter(Boolean).join(" ");
}

/** Why captions do not say who spoke; nothing where they do, and of a server that knows nothing of it. */
export function speakerWords(info: Pick<Ready, "speakers"> | null, status: Pick<ServerStatus, "speakers_notice"> | null): string {
  return (status ? status.speakers_notice : info?.speakers?.notice) ?? "";
}

function Task({ task }: { task: StatusTask }) {
  const { name, state, fraction, text } = task;
  if (state === "failed") return <p className="notice bad">{text}</p>;
  const percent = fraction === null ? "" : `, ${Math.floor(fraction * 100)} %`;
  return (
    <ProgressBar
      className="task"
      aria-label={text}
      isIndeterminate={fraction === null}
      {...(fraction === null ? {} : { value: fraction * 100 })}
      data-task={name}
    >
      <span>
        {text}
        {state === "running" ? percent : ""}
      </span>
      <span className="task-rail" data-unknown={fraction === null || undefined}>
        <span style={{ width: `${(fraction ?? 0) * 100}%` }} />
      </span>
    </ProgressBar>
  );
}
