pub struct Queue<T> {
    slots: Vec<T>,
    limit: usize,
}

impl<T: Clone> Queue<T> {
    pub fn new(limit: usize) -> Self {
        Queue { slots: Vec::new(), limit }
    }

    pub fn push(&mut self, value: T) -> bool {
        if self.slots.len() >= self.limit {
            return false;
        }
        self.slots.push(value);
        true
    }

    pub fn peek(&self) -> Option<&T> {
        self.slots.first()
    }
}
