abstract class Shape {
  abstract area(): number;
  constructor(protected readonly label: string) {}
}

export class Square extends Shape {
  constructor(private side: number) {
    super("square");
  }

  area(): number {
    return this.side * this.side;
  }

  show(): string {
    return `${this.label} ${this.area().toFixed(1)}`;
  }
}

const square = new Square(2);
console.log(square.show());
