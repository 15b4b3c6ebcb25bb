/** The voices that are recognised in later recordings: who enrolled them, what is stored, and a way to forget them. */

import { asParlanceError, type EnrolledVoice, type People } from "@parlance/client";
import { useCallback, useEffect, useRef, useState } from "react";
import { Button } from "react-aria-components";
import { when } from "../shell/format.js";
import { Ask } from "../ui/Ask.js";
import { useSay } from "../ui/Said.js";

interface Props {
  people: People;
  mayEdit: boolean;
  onClose: () => void;
}

export function VoicesDialog({ people, mayEdit, onClose }: Props) {
  const [voices, setVoices] = useState<EnrolledVoice[] | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [asked, setAsked] = useState<string | null>(null);
  const close = useRef<HTMLButtonElement>(null);
  const say = useSay();
  const fail = useCallback((thrown: unknown) => setError(asParlanceError(thrown).message), []);
  const load = useCallback(() => people.voices().then(setVoices, fail), [people, fail]);
  useEffect(() => void load(), [load]);

  const forget = ({ id, name }: EnrolledVoice): void => {
    setError(null);
    people.deleteVoice(id).then(() => {
      say(`The voice of ${name} was deleted.`);
      setAsked(null);
      close.current?.focus(); // What had the focus is gone.
      return load();
    }, fail);
  };
  return (
    <Ask title="Voices" isOpen onClose={onClose}>
      <p className="hint">
        Voices that are recognised in later recordings. Recordings keep the names they show when a voice is deleted.
      </p>
      {error !== null && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      {voices?.length === 0 && <p>No voice is stored. Press a speaker’s name in a recording to enrol one.</p>}
      {voices !== null && voices.length > 0 && (
        <ul className="voices" aria-label="Stored voices">
          {voices.map((voice) => (
            <li key={voice.id}>
              <div>
                <b>{voice.name}</b>
                <small>{factsOf(voice)}</small>
                <small>{voice.stored}</small>
                {!voice.usable && <small>Not recognised now: heard by another model than the present one.</small>}
              </div>
              {mayEdit && asked !== voice.id && (
                <Button className="button" aria-label={`Delete the voice of ${voice.name}`} onPress={() => setAsked(voice.id)}>
                  Delete
                </Button>
              )}
              {asked === voice.id && (
                <Button className="button danger" autoFocus onPress={() => forget(voice)}>
                  Delete for good
                </Button>
              )}
            </li>
          ))}
        </ul>
      )}
      <div className="dialog-buttons">
        <Button slot="close" className="button" ref={close}>
          Close
        </Button>
      </div>
    </Ask>
  );
}

function factsOf({ enrolled_by, enrolled_at }: EnrolledVoice): string {
  return `Enrolled ${when(enrolled_at, Date.now())}${enrolled_by === null ? "" : ` by ${enrolled_by}`}`;
}
