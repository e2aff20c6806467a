use std::collections::HashMap;

pub struct Item {
    pub name: String,
    pub stock: u32,
    price: f64,
}

pub fn total_price(items: &[Item]) -> f64 {
    let mut total = 0.0;
    for item in items {
        total += item.price * f64::from(item.stock);
    }
    total
}

pub fn by_name(items: Vec<Item>) -> HashMap<String, Item> {
    let mut map = HashMap::new();
    for item in items {
        map.insert(item.name.clone(), item);
    }
    map
}
