package main

import (
	"errors"
	"fmt"
	"strings"
)

var errBad = errors.New("bad line")

func parseLine(line string) (string, string, error) {
	parts := strings.SplitN(line, "=", 2)
	if len(parts) != 2 {
		return "", "", errBad
	}
	return parts[0], parts[1], nil
}

func main() {
	key, value, err := parseLine("port=80")
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	fmt.Printf("%s is %q\n", key, value)
}
