interface Order {
  id: number;
  owner: string;
  price?: number;
}

function describe(order: Order): string {
  return `${order.id} for ${order.owner}`;
}

export function total(orders: Order[]): number {
  let sum = 0;
  for (const order of orders) {
    sum += order.price ?? 0;
  }
  return sum;
}

export const first: Order = { id: 1, owner: "ada" };
console.log(describe(first), total([first]));
