type Key = string | number;

export class Cache<T> {
  private slots = new Map<Key, T>();

  constructor(private limit: number) {}

  put(key: Key, value: T): boolean {
    if (this.slots.size >= this.limit) {
      return false;
    }
    this.slots.set(key, value);
    return true;
  }

  take(key: Key): T | undefined {
    return this.slots.get(key);
  }
}

const cache = new Cache<string>(2);
cache.put("a", "one");
