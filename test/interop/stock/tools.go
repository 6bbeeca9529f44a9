//go:build tools

// Package stock names the programs that the interop tests compare with and talk to.
// It is a module of its own: each is built with the dependencies its authors chose.
package stock

import (
	_ "github.com/spiffe/spiffe-helper/cmd/spiffe-helper"
	_ "github.com/spiffe/spire/cmd/spire-agent"
	_ "github.com/spiffe/spire/cmd/spire-server"
)
