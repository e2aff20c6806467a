package main

import (
	"fmt"
	"sort"
)

type item struct {
	name  string
	stock int
}

func total(items []item) int {
	sum := 0
	for _, it := range items {
		sum += it.stock
	}
	return sum
}

func main() {
	items := []item{{"bolt", 4}, {"nut", 9}}
	sort.Slice(items, func(i, j int) bool {
		return items[i].stock < items[j].stock
	})
	fmt.Printf("%s %d\n", items[0].name, total(items))
}
