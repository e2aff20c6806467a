type Point = [number, number];

function distance(a: Point, b: Point): number {
  const dx = a[0] - b[0];
  const dy = a[1] - b[1];
  return Math.sqrt(dx * dx + dy * dy);
}

export function routeLength(points: Point[]): number {
  let length = 0;
  points.forEach((point, index) => {
    if (index > 0) {
      length += distance(points[index - 1], point);
    }
  });
  return length;
}

const trip: Point[] = [[0, 0], [3, 4]];
console.log(routeLength(trip));
