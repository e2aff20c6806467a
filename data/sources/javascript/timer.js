class Timer {
  constructor(label, limit) {
    this.label = label;
    this.limit = limit;
    this.ticks = 0;
  }

  tick() {
    this.ticks += 1;
    return this.ticks < this.limit;
  }
}

const timer = new Timer("boil", 3);
while (timer.tick()) {
  console.log(timer.label, timer.ticks);
}
