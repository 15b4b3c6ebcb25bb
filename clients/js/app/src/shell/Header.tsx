/** The top of the page: the connection and what the server can do, the colours, who is signed in. */

import type { ConnectionState } from "@parlance/client";
import { Button, Dialog, DialogTrigger, Menu, MenuItem, MenuTrigger, Popover } from "react-aria-components";
import { AlertsButton } from "../alerts/AlertsButton.js";
import type { AlertsView } from "../alerts/useAlerts.js";
import type { Session } from "../api.js";
import type { Library } from "../library/recordings.js";
import type { Called } from "../search/Hit.js";
import { Logo, PersonIcon, SearchIcon, SunIcon } from "../ui/icons.js";
import { useTheme, type Theme } from "./theme.js";
import type { Connection } from "./useConnection.js";

const CONNECTION_WORDS: Record<ConnectionState, string> = {
  connecting: "Connecting…",
  live: "Connected",
  reconnecting: "Reconnecting…",
  closed: "Disconnected",
};

interface Props {
  connection: Connection;
  session: Session;
  isRecording: boolean;
  onSignOut: () => void;
  onHelp: () => void;
  /** Null where the search is in sight on every screen. */
  onSearch: (() => void) | null;
  onVoices: () => void;
  /** Null where this person may not see it. */
  onAnalytics: (() => void) | null;
  /** Null where the server tells nothing. */
  alerts: AlertsView | null;
  library: Library;
  called: Called;
}

export function Header({ connection, alerts, library, called, onSearch, ...account }: Props) {
  return (
    <header className="top">
      <a className="brand" href="#/">
        <Logo /> <span>Parlance</span>
      </a>
      <ConnectionButton connection={connection} />
      <div className="top-end">
        {onSearch && (
          <Button className="button icon quiet phones" aria-label="Search" onPress={onSearch}>
            <SearchIcon />
          </Button>
        )}
        {alerts && <AlertsButton alerts={alerts} library={library} called={called} />}
        <ThemeMenu />
        <AccountMenu {...account} />
      </div>
    </header>
  );
}

function ConnectionButton({ connection }: { connection: Connection }) {
  const { state } = connection;
  return (
    <>
      <p className="visually-hidden" role="status">
        Connection: {CONNECTION_WORDS[state]}
      </p>
      <DialogTrigger>
        <Button className="button quiet connection" data-state={state} aria-describedby="connection-hint">
          <span className="dot" aria-hidden="true" />
          <span>{CONNECTION_WORDS[state]}</span>
        </Button>
        <Popover className="popover" placement="bottom start">
          <Dialog className="about" aria-label="About the server">
            <About connection={connection} />
          </Dialog>
        </Popover>
      </DialogTrigger>
      <span id="connection-hint" hidden>
        Shows what the server can do
      </span>
    </>
  );
}

function About({ connection: { info, status } }: { connection: Connection }) {
  const engine = status?.engine ?? info?.engine;
  if (!engine) return <p>The server has not greeted yet.</p>;
  const languages = status?.alignment ?? [];
  return (
    <>
      <h2>This server</h2>
      <dl>
        <dt>Speech engine</dt>
        <dd>
          {engine.name} {engine.model !== engine.name && engine.model} ({engine.state})
        </dd>
        {status && (
          <>
            <dt>Search by meaning</dt>
            <dd>{status.vectors ? "Ready" : "Not now: places with your words are found"}</dd>
            <dt>Exact word times</dt>
            <dd>{languages.length > 0 ? languages.join(", ") : "Not now: times come from the engine"}</dd>
          </>
        )}
      </dl>
      {status?.tasks.map(({ name, state, text }) => (
        <p key={name} className={state === "failed" ? "error" : "hint"}>
          {text}
        </p>
      ))}
    </>
  );
}

const THEMES: readonly { id: Theme; name: string }[] = [
  { id: "system", name: "As the system" },
  { id: "light", name: "Light" },
  { id: "dark", name: "Dark" },
];

function ThemeMenu() {
  const [theme, setTheme] = useTheme();
  return (
    <MenuTrigger>
      <Button className="button icon quiet" aria-label="Colours">
        <SunIcon />
      </Button>
      <Popover className="popover" placement="bottom end">
        <Menu
          className="menu"
          aria-label="Colours"
          items={THEMES}
          selectionMode="single"
          disallowEmptySelection
          selectedKeys={[theme]}
          onSelectionChange={(keys) => keys !== "all" && setTheme([...keys][0] as Theme)}
        >
          {({ id, name }) => (
            <MenuItem id={id} className="menu-item">
              {name}
            </MenuItem>
          )}
        </Menu>
      </Popover>
    </MenuTrigger>
  );
}

type AccountProps = Omit<Props, "alerts" | "called" | "connection" | "library" | "onSearch">;

function AccountMenu({ session, isRecording, onSignOut, onHelp, onVoices, onAnalytics }: AccountProps) {
  return (
    <MenuTrigger>
      <Button className="button quiet who" aria-label={`Account: ${session.user.name}`}>
        <PersonIcon /> <span>{session.user.name}</span>
      </Button>
      <Popover className="popover" placement="bottom end">
        <Menu className="menu" aria-label="Account" disabledKeys={isRecording ? ["out"] : []}>
          <MenuItem id="voices" className="menu-item" onAction={onVoices}>
            Voices
          </MenuItem>
          {onAnalytics && (
            <MenuItem id="analytics" className="menu-item" onAction={onAnalytics}>
              What people search
            </MenuItem>
          )}
          <MenuItem id="help" className="menu-item" onAction={onHelp}>
            Keyboard shortcuts
          </MenuItem>
          <MenuItem id="out" className="menu-item" textValue="Sign out" onAction={onSignOut}>
            <span>Sign out</span>
            <small>
              {isRecording ? "Stop the recording first" : `Signed in to ${session.tenant.name}`}
            </small>
          </MenuItem>
        </Menu>
      </Popover>
    </MenuTrigger>
  );
}
