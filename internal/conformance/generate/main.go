// SPDX-License-Identifier: Apache-2.0

// Command generate makes cases for the corpus at random: Dockerfiles from a
// grammar, build contexts from odd names, links and modes. The same seed makes
// the same case for ever; those in testdata/dockerfiles are named after
// theirs, gen-SEED. What builds and what does not is found out by recording.
//
//	go run ./internal/conformance/generate -out DIR [-seed FIRST] [-count N]
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
)

func main() {
	out := flag.String("out", "", "directory to make the cases in")
	seed := flag.Uint64("seed", 1, "seed of the first case")
	count := flag.Uint64("count", 1, "how many cases")
	flag.Parse()
	log.SetFlags(0)
	if *out == "" {
		log.Fatalln("generate: -out is missing")
	}
	for s := *seed; s < *seed+*count; s++ {
		if err := write(filepath.Join(*out, caseName(s)), generate(s)); err != nil {
			log.Fatalln("generate:", err)
		}
	}
}

func caseName(seed uint64) string { return fmt.Sprintf("gen-%04d", seed) }

// write writes a case's files.
func write(dir string, files map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
