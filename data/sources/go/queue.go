package main

import "fmt"

const limit = 3

type queue struct {
	slots []string
}

func (q *queue) push(job string) bool {
	if len(q.slots) >= limit {
		return false
	}
	q.slots = append(q.slots, job)
	return true
}

func main() {
	q := &queue{}
	for i := 0; q.push("job"); i++ {
		fmt.Printf("job %d\n", i)
	}
	switch len(q.slots) {
	case limit:
		fmt.Println("full")
	default:
		fmt.Println("free")
	}
}
