/** Who is this? Name a speaker of a recording, know the voice again later, or say that two speakers are one. */

import { asParlanceError, type People, type Speaker } from "@parlance/client";
import { useEffect, useState, type FormEvent, type ReactNode } from "react";
import { Button, Input, Label, Switch, TextField } from "react-aria-components";
import { Ask } from "../ui/Ask.js";
import { Picker } from "../ui/Picker.js";
import { useSay } from "../ui/Said.js";
import { duration } from "../shell/format.js";
import { speakerName } from "./names.js";

/** As the server asks for: less speech makes no voice. */
const CLEAN_MS_MIN = 5_000;
const NAME_CHARS_MAX = 100;

interface Props {
  people: People;
  recordingId: string;
  label: string;
  names: ReadonlyMap<string, string>;
  onClose: () => void;
}

export function SpeakerDialog({ people, recordingId, label, names, onClose }: Props) {
  const called = speakerName(label, names);
  const [speakers, setSpeakers] = useState<Speaker[] | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [isBusy, setBusy] = useState(false);
  const say = useSay();
  useEffect(() => {
    people.speakers(recordingId).then(setSpeakers, (thrown: unknown) => setError(asParlanceError(thrown).message));
  }, [people, recordingId]);

  const attempt = (work: Promise<unknown>, done: string): void => {
    setBusy(true);
    setError(null);
    work.then(
      () => {
        say(done);
        onClose();
      },
      (thrown: unknown) => {
        setError(asParlanceError(thrown).message);
        setBusy(false);
      },
    );
  };
  const self = speakers?.find((speaker) => speaker.label === label) ?? null;
  const others = speakers?.filter((speaker) => speaker.label !== label) ?? [];
  return (
    <Ask title={`Who is ${called}?`} isOpen onClose={onClose}>
      {error !== null && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      <NameForm
        name={names.get(label) ?? ""}
        self={self}
        isBusy={isBusy}
        onSave={(name, isEnrolling) =>
          attempt(
            isEnrolling ? people.enrol(recordingId, label, name) : people.name(recordingId, label, name || null),
            isEnrolling ? `${name} will be recognised from now on.` : "The name was saved.",
          )
        }
      >
        <Button slot="close" className="button">
          Cancel
        </Button>
      </NameForm>
      {others.length > 0 && (
        <MergeForm
          called={called}
          others={others}
          names={names}
          isBusy={isBusy}
          onMerge={(into) => attempt(people.merge(recordingId, label, into), "The two are one speaker now.")}
        />
      )}
    </Ask>
  );
}

interface NameFormProps {
  name: string;
  self: Speaker | null;
  isBusy: boolean;
  onSave: (name: string, isEnrolling: boolean) => void;
  children: ReactNode;
}

function NameForm({ name: before, self, isBusy, onSave, children }: NameFormProps) {
  const [name, setName] = useState(before);
  const [isEnrolling, setEnrolling] = useState(false);
  const isKnown = self !== null && self.voice_id !== null && name.trim().toLowerCase() === before.toLowerCase();
  const isEnough = self !== null && self.clean_ms >= CLEAN_MS_MIN;
  const save = (event: FormEvent): void => {
    event.preventDefault();
    onSave(name.trim(), isEnrolling && isEnough);
  };
  return (
    <form className="stack" onSubmit={save}>
      <TextField className="field" value={name} onChange={setName} autoFocus maxLength={NAME_CHARS_MAX}>
        <Label>Name</Label>
        <Input autoComplete="off" />
      </TextField>
      {isKnown && <p className="hint">This voice is known: it is recognised in later recordings.</p>}
      {!isKnown && (
        <div>
          <Switch className="switch" isSelected={isEnrolling && isEnough} onChange={setEnrolling} isDisabled={!isEnough}>
            <span className="switch-rail" aria-hidden="true" />
            Recognise this voice in later recordings
          </Switch>
          <p className="hint">
            {isEnough || self === null
              ? "Stores numbers that tell what the voice sounds like, no audio, and that you asked for it. Ask the person first; Voices in the account menu deletes it."
              : `Wants ${duration(CLEAN_MS_MIN)} of this voice alone; ${duration(self.clean_ms)} were heard.`}
          </p>
        </div>
      )}
      <div className="dialog-buttons">
        {children}
        <Button className="button primary" type="submit" isDisabled={isBusy || (isEnrolling && name.trim() === "")}>
          Save
        </Button>
      </div>
    </form>
  );
}

interface MergeFormProps {
  called: string;
  others: readonly Speaker[];
  names: ReadonlyMap<string, string>;
  isBusy: boolean;
  onMerge: (into: string) => void;
}

function MergeForm({ called, others, names, isBusy, onMerge }: MergeFormProps) {
  const [into, setInto] = useState(others[0]!.label);
  const choices = others.map((speaker) => ({
    id: speaker.label,
    name: speakerName(speaker.label, names),
    note: `spoke for ${duration(speaker.spoken_ms)}`,
  }));
  return (
    <div className="stack merge">
      <Picker label={`${called} is the same person as`} choices={choices} value={into} onChange={setInto} />
      <p className="hint">Everything both said is then shown as one speaker’s. This cannot be undone.</p>
      <div className="dialog-buttons">
        <Button className="button" isDisabled={isBusy} onPress={() => onMerge(into)}>
          Merge
        </Button>
      </div>
    </div>
  );
}
