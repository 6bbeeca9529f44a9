package main

import (
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
)

func runCommand(o *options) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run this node's sidecar until it is told to stop",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(path)
			if err != nil {
				return err
			}
			handlerOptions := &slog.HandlerOptions{Level: c.Log.Level.Slog(), ReplaceAttr: explain.Attr}
			var handler slog.Handler = slog.NewTextHandler(o.err, handlerOptions)
			if c.Log.Format == "json" {
				handler = slog.NewJSONHandler(o.err, handlerOptions)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return app.Run(ctx, c, versionString(), slog.New(handler))
		},
	}
	c.Flags().StringVar(&path, "config", "/etc/bailiwick/bailiwick.yaml", "the node's configuration")
	return c
}
