interface Shape {
    double area();
}

class Circle implements Shape {
    private final double radius;

    Circle(double radius) {
        this.radius = radius;
    }

    public double area() {
        return Math.PI * radius * radius;
    }
}

class Report {
    static String line(Shape shape) {
        int rounded = (int) shape.area();
        return "area " + rounded;
    }
}
