pub trait Shape {
    fn area(&self) -> f64;
    fn label(&self) -> String;
}

pub struct Circle {
    pub radius: f64,
}

impl Shape for Circle {
    fn area(&self) -> f64 {
        std::f64::consts::PI * self.radius * self.radius
    }

    fn label(&self) -> String {
        format!("circle {}", self.radius)
    }
}

pub fn largest(shapes: &[Box<dyn Shape>]) -> f64 {
    let mut best = 0.0;
    for shape in shapes {
        if shape.area() > best {
            best = shape.area();
        }
    }
    best
}
