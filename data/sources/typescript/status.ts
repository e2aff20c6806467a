type Status = "open" | "closed" | "late";

enum Level {
  Low,
  High,
}

function color(status: Status): string {
  switch (status) {
    case "open":
      return "green";
    case "closed":
      return "gray";
    case "late":
      return "red";
  }
}

function weight(level: Level, factor = 1): number {
  return (level === Level.High ? 10 : 1) * factor;
}

export const badge = color("open") + weight(Level.Low);
