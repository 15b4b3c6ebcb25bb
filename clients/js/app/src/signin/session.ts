/**
 * Who is signed in on this device.
 *
 * Policy: a sign-in link is used once and leaves the address bar at once, before anything else happens; the token is
 * kept in this browser's storage and shared by the tabs of the page. The client asks for a new one before it ends
 * (`renew`), here or in another tab.
 */

import { asParlanceError, type ParlanceError } from "@parlance/client";
import { useCallback, useEffect, useState } from "react";
import { refreshSession, signInByLink, type Session } from "../api.js";

const KEY = "parlance.session";

export type SignIn =
  | { state: "pending" }
  | { state: "in"; session: Session }
  | { state: "out"; reason: "none" | "link" | "ended" | "token" | "unreachable"; error?: ParlanceError };

export interface Access {
  signIn: SignIn;
  useToken: (token: string) => Promise<void>;
  signOut: () => void;
  /** The session is no longer taken by the server. */
  expire: () => void;
  /** A fresh token; throws ParlanceError. */
  renew: () => Promise<string>;
}

export function readStored(storage: Pick<Storage, "getItem">, nowMs: number): Session | null {
  try {
    const session = JSON.parse(storage.getItem(KEY) ?? "null") as Session | null;
    return session && typeof session.token === "string" && session.expires_at * 1000 > nowMs ? session : null;
  } catch {
    return null;
  }
}

/** The code of a sign-in link, taken out of the address bar. */
export function takeLoginCode(): string | null {
  const code = /^#login=(.+)$/.exec(window.location.hash)?.[1];
  if (code === undefined) return null;
  window.history.replaceState(null, "", window.location.pathname + window.location.search);
  return decodeURIComponent(code);
}

/** Called once, before the page is drawn: a link's code must not be spent twice. */
export async function beginSession(): Promise<SignIn> {
  const code = takeLoginCode();
  if (code === null) {
    const session = readStored(localStorage, Date.now());
    return session ? { state: "in", session } : { state: "out", reason: "none" };
  }
  try {
    return keep(await signInByLink(code));
  } catch (thrown) {
    const error = asParlanceError(thrown);
    return { state: "out", reason: error.retryable ? "unreachable" : "link", error };
  }
}

function keep(session: Session): SignIn {
  localStorage.setItem(KEY, JSON.stringify(session));
  return { state: "in", session };
}

export function useAccess(beginning: Promise<SignIn>): Access {
  const [signIn, setSignIn] = useState<SignIn>({ state: "pending" });
  const session = signIn.state === "in" ? signIn.session : null;

  useEffect(() => void beginning.then(setSignIn), [beginning]);

  const leave = useCallback((reason: "none" | "ended") => {
    localStorage.removeItem(KEY);
    setSignIn({ state: "out", reason });
  }, []);

  const renew = useCallback(async () => {
    const stored = readStored(localStorage, Date.now());
    const fresh = await refreshSession(stored?.token ?? session?.token ?? "");
    setSignIn(keep(fresh));
    return fresh.token;
  }, [session]);

  useEffect(() => {
    const onStorage = (event: StorageEvent): void => {
      if (event.key !== KEY) return;
      const stored = readStored(localStorage, Date.now());
      setSignIn(stored ? { state: "in", session: stored } : { state: "out", reason: "none" });
    };
    window.addEventListener("storage", onStorage);
    return () => window.removeEventListener("storage", onStorage);
  }, []);

  const useToken = useCallback(async (token: string) => {
    try {
      setSignIn(keep(await refreshSession(token.trim())));
    } catch (thrown) {
      const error = asParlanceError(thrown);
      setSignIn({ state: "out", reason: error.retryable ? "unreachable" : "token", error });
    }
  }, []);

  return { signIn, useToken, signOut: () => leave("none"), expire: () => leave("ended"), renew };
}
