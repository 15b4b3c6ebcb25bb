/** A button that is only a drawing: its words are its name, and a tooltip for those who point at it. */

import type { ReactNode } from "react";
import { Button, Tooltip, TooltipTrigger } from "react-aria-components";

interface Props {
  label: string;
  children: ReactNode;
  onPress?: () => void;
  className?: string;
  isDisabled?: boolean;
}

export function IconButton({ label, children, onPress, className = "", isDisabled = false }: Props) {
  return (
    <TooltipTrigger delay={500}>
      <Button
        aria-label={label}
        className={`button icon quiet ${className}`}
        isDisabled={isDisabled}
        {...(onPress ? { onPress } : {})}
      >
        {children}
      </Button>
      <Tooltip className="tooltip">{label}</Tooltip>
    </TooltipTrigger>
  );
}
