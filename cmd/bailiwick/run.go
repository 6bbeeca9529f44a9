package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
)

func runCommand(o *options) *cobra.Command {
	var path string
	var overrides []config.Override
	c := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run this node's sidecar until it is told to stop",
		Long: `Run this node's sidecar until SIGTERM or SIGINT.

At SIGHUP it reads again what an operator changes while it runs: the files of
trust.records and policy and, on an issuer, of issuer.entries. What is wrong in them
is logged, and what was in force before stays.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(path, overrides...)
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
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			return app.Run(ctx, c, versionString(), slog.New(handler), reload, func(err error) string { e, _ := explain.Of(err); return e.Code })
		},
	}
	c.Flags().StringVar(&path, "config", "/etc/bailiwick/bailiwick.yaml", "the node's configuration")
	c.Flags().Func("tpm", "auto, required or off, instead of the configuration's tpm.mode", func(s string) error {
		var mode config.TPMMode
		err := mode.UnmarshalText([]byte(s))
		overrides = append(overrides, func(c *config.Config) { c.TPM.Mode = mode })
		return err
	})
	return c
}
