/** One of several, in a list that opens. */

import type { ReactNode } from "react";
import { Button, Label, ListBox, ListBoxItem, Popover, Select, SelectValue } from "react-aria-components";
import { ChevronIcon } from "./icons.js";

export interface Choice {
  id: string;
  name: string;
  /** A second, quieter line. */
  note?: string;
}

interface Props {
  label: string;
  choices: readonly Choice[];
  value: string;
  onChange: (id: string) => void;
  isDisabled?: boolean;
  icon?: ReactNode;
  /** The label is for screen readers only. */
  isCompact?: boolean;
}

export function Picker({ label, choices, value, onChange, icon, isDisabled = false, isCompact = false }: Props) {
  return (
    <Select
      className={isCompact ? "picker compact" : "picker field"}
      selectedKey={value}
      onSelectionChange={(key) => key !== null && onChange(String(key))}
      isDisabled={isDisabled}
      {...(isCompact ? { "aria-label": label } : {})}
    >
      {!isCompact && <Label>{label}</Label>}
      <Button className="button picker-button">
        {icon}
        <SelectValue<Choice> className="picker-value">{({ selectedItem, defaultChildren }) => selectedItem?.name ?? defaultChildren}</SelectValue>
        <ChevronIcon />
      </Button>
      <Popover className="popover">
        <ListBox className="menu" items={choices}>
          {({ id, name, note }) => (
            <ListBoxItem id={id} textValue={name} className="menu-item">
              <span>{name}</span>
              {note !== undefined && <small>{note}</small>}
            </ListBoxItem>
          )}
        </ListBox>
      </Popover>
    </Select>
  );
}
