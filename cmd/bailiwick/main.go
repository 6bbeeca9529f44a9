// Command bailiwick is the sidecar and everything to operate it.
package main

import (
	"os"
	"runtime/debug"
)

// version is set by the build; a plain `go build` falls back to the module's.
var version string

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
