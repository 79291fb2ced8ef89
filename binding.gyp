{
  # The addon is built by CMake (CMakeLists.txt, native/addon). This target only hands over to it, for tools that
  # expect a binding.gyp.
  "targets": [
    {
      "target_name": "holdfast",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake_js",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/addon/Release/holdfast.node"],
          "action": ["node", "scripts/build.mjs", "addon"]
        }
      ]
    }
  ]
}
