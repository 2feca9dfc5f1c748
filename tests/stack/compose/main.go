// Reads compose files as Docker Compose does, with its own module, and writes the project that they make as JSON.
//
//	compose FILE...
//
// takes the files of one project, later ones on top; variables come from the environment. A field or value that Compose
// does not know, a variable that must be set and is not, a service, network or volume that is named and not there: each
// is written on stderr, and the status is 1.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	made, err := project(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(made)
}

func project(paths []string) ([]byte, error) {
	options, err := cli.NewProjectOptions(paths, cli.WithOsEnv, cli.WithConsistency(true), cli.WithProfiles([]string{"*"}))
	if err != nil {
		return nil, err
	}
	loaded, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return loaded.MarshalJSON()
}
