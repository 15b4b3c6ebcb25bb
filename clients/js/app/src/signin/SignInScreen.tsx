/** No session: what to do about it. */

import { useState, type FormEvent } from "react";
import { Button } from "react-aria-components";
import { Logo } from "../ui/icons.js";
import type { SignIn } from "./session.js";

type Out = Extract<SignIn, { state: "out" }>;

const EXPLANATIONS: Record<Out["reason"], { title: string; text: string }> = {
  none: {
    title: "Sign in",
    text: "Open the sign-in link that the server printed when it started.",
  },
  link: {
    title: "This link no longer works",
    text: "A sign-in link works once and for a short time. Restart the server and it prints a new one.",
  },
  ended: {
    title: "Your session has ended",
    text: "Restart the server and open the sign-in link it prints.",
  },
  token: {
    title: "That token was not accepted",
    text: "It may have expired, or a part of it may be missing.",
  },
  unreachable: {
    title: "The server cannot be reached",
    text: "Check that it is running and reload this page.",
  },
};

export function SignInScreen({ signIn, onToken }: { signIn: Out; onToken: (token: string) => Promise<void> }) {
  const [token, setToken] = useState("");
  const [isBusy, setBusy] = useState(false);
  const { title, text } = EXPLANATIONS[signIn.reason];

  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    await onToken(token);
    setBusy(false);
  };

  return (
    <main className="sign-in">
      <div className="card">
        <p className="brand">
          <Logo /> Parlance
        </p>
        <div role={signIn.reason === "none" ? undefined : "alert"}>
          <h1>{title}</h1>
          <p>{text}</p>
        </div>
        <form onSubmit={(event) => void submit(event)}>
          <label htmlFor="token">Or paste an access token</label>
          <p className="hint" id="token-hint">
            <code>parlance token --tenant demo --role owner</code> prints one in the terminal.
          </p>
          <div className="row">
            <input
              id="token"
              name="token"
              type="password"
              autoComplete="off"
              spellCheck={false}
              aria-describedby="token-hint"
              value={token}
              onChange={(event) => setToken(event.target.value)}
            />
            <Button className="button primary" type="submit" isDisabled={isBusy || token.trim() === ""}>
              {isBusy ? "Signing in…" : "Sign in"}
            </Button>
          </div>
        </form>
      </div>
    </main>
  );
}
