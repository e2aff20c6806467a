export interface User {
  readonly name: string;
  email: string | null;
  age: number;
}

export function domain(user: User): string {
  if (user.email === null) {
    return "none";
  }
  return user.email.split("@")[1];
}

export function oldest(users: User[]): User | undefined {
  let best: User | undefined;
  for (const user of users) {
    if (!best || user.age > best.age) {
      best = user;
    }
  }
  return best;
}
