/** The page's one connection. It lives as long as the same person is signed in, whatever happens to the token. */

import { connect, VERSION, type ConnectionState, type Parlance, type Ready, type ServerStatus } from "@parlance/client";
import { useEffect, useRef, useState } from "react";
import type { Session } from "../api.js";

export interface Connection {
  client: Parlance;
  state: ConnectionState;
  info: Ready | null;
  status: ServerStatus | null;
}

/** Null until the first effect ran. `onRefused`: the server no longer takes this session. */
export function useConnection(session: Session, renew: () => Promise<string>, onRefused: () => void): Connection | null {
  const [connection, setConnection] = useState<Connection | null>(null);
  const latest = useRef({ token: session.token, renew, onRefused });
  latest.current = { token: session.token, renew, onRefused };

  useEffect(() => {
    const client = connect({
      url: window.location.origin,
      token: latest.current.token,
      getToken: () => latest.current.renew(),
      client: `parlance-page/${VERSION}`,
    });
    const show = (): void => {
      setConnection({ client, state: client.state, info: client.info, status: client.status });
    };
    client.on("client:state", show);
    client.on("ready", show);
    client.on("server:status", show);
    client.on("client:refused", () => latest.current.onRefused());
    show();
    return () => client.close();
  }, [session.user.id, session.tenant.id]);

  const client = connection?.client;
  useEffect(() => {
    // A refused refresh shows itself: the server closes the connection and the page asks for a new sign-in.
    client?.refresh(session.token).catch(() => undefined);
  }, [client, session.token]);

  return connection;
}
