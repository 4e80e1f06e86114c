# The main job, done as the tenant and shown.
# shellcheck shell=bash

show_demo() { :; }
