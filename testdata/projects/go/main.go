// Command hello greets from an image that holds nothing else.
package main

import (
	"fmt"
	"os"
)

func main() {
	entries, err := os.ReadDir("/")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("hello from pid", os.Getpid(), "with", len(entries) > 0)
}
