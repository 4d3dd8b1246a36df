from videollava_cli.engine.prompting import one_question
