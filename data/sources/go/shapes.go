package main

import (
	"fmt"
	"math"
)

type shape interface {
	area() float64
}

type circle struct{ radius float64 }

func (c circle) area() float64 {
	return math.Pi * c.radius * c.radius
}

func largest(shapes []shape) float64 {
	best := 0.0
	for _, s := range shapes {
		best = math.Max(best, s.area())
	}
	return best
}

func main() {
	fmt.Printf("%.2f\n", largest([]shape{circle{1}, circle{2}}))
}
